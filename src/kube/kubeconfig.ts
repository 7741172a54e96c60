import { KubeConfig } from "@kubernetes/client-node";
import type { Credentials } from "./connect.ts";

/**
 * What a kubeconfig file says, read by Kubernetes' own client library.
 * @throws when it cannot be read or used
 */
export function credentialsOf(path: string): Credentials {
  const config = new KubeConfig();
  config.loadFromFile(path);
  const cluster = config.getCurrentCluster();
  if (!cluster || cluster.server.includes("undefined")) throw new Error("it names no API server");
  if (cluster.skipTLSVerify && cluster.server.startsWith("https:")) {
    throw new Error("insecure-skip-tls-verify is not possible: name the certificate authority");
  }
  const read = async () => {
    const https: Record<string, unknown> & { headers?: Record<string, string> } = {};
    await config.applyToHTTPSOptions(https);
    const given = (["ca", "cert", "key"] as const).flatMap((name) => https[name] ? [[name, String(https[name])]] : []);
    return { headers: https.headers ?? {}, ...Object.fromEntries(given) };
  };
  const { namespace } = config.getContextObject(config.getCurrentContext()) ?? {};
  return { server: cluster.server, namespace, read };
}
