import { isIPv6 } from "node:net";
import { FailedPrecondition, messageOf } from "../runtime/errors.ts";
import { Kube, type KubeOptions } from "./client.ts";

/** Where the kubelet puts a pod's credentials. */
const ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount";
/** Where the driver's own objects lie when nobody says. */
const NAMESPACE = "rds-csi";

/** How the API is found. */
export interface ConnectOptions {
  /** File with credentials; undefined: the pod's service account. */
  kubeconfig: string | undefined;
  /** For the driver's own objects; undefined: as the credentials say. */
  namespace: string | undefined;
  /** Milliseconds for each request. */
  deadline: number;
  /** Where the pod's service account is looked for. */
  pod?: PodOptions;
}

/** Where a pod's service account is; by default where the kubelet puts it. */
export interface PodOptions {
  folder?: string;
  env?: (name: string) => string | undefined;
}

/** Where the API is, and what proves who asks. */
export interface Credentials {
  server: string;
  namespace: string | undefined;
  /** Read anew for each request: tokens and certificates are renewed on disk. */
  read: () => Promise<{ headers: Record<string, string>; ca?: string; cert?: string; key?: string }>;
}

/**
 * A client with the credentials of a kubeconfig file, or of the pod's service account where none is named. Nothing is asked
 * of the server yet.
 * @throws {FailedPrecondition} when there are none, or they cannot be used
 */
export async function connectKube({ kubeconfig, namespace, deadline, pod }: ConnectOptions): Promise<Kube> {
  const found = await (kubeconfig ? fromFile(kubeconfig) : fromPod(pod)).catch((error) => {
    throw unusable(messageOf(error), error);
  });
  const { server } = found;
  return new Kube({ server, namespace: namespace ?? found.namespace ?? NAMESPACE, deadline, ...transport(found) });
}

/** The library for kubeconfigs takes 40 MB and 300 ms: only who has a kubeconfig loads it. */
async function fromFile(path: string): Promise<Credentials> {
  return (await import("./kubeconfig.ts")).credentialsOf(path);
}

/**
 * The pod's service account (Kubernetes, "Accessing the Kubernetes API from a Pod").
 * @throws when it is not there, or the environment does not say where the server is
 */
export async function fromPod(options: PodOptions = {}): Promise<Credentials> {
  const { folder = ACCOUNT, env = (name: string) => Deno.env.get(name) } = options;
  const [host, port] = [env("KUBERNETES_SERVICE_HOST"), env("KUBERNETES_SERVICE_PORT")];
  if (!host || !port) throw new Error("KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set");
  const read = async () => {
    const [token, ca] = await Promise.all([line(`${folder}/token`), Deno.readTextFile(`${folder}/ca.crt`)]);
    return { headers: { authorization: `Bearer ${token}` }, ca };
  };
  await read(); // Credentials that are not there show now, not at the first request.
  const server = `https://${isIPv6(host) ? `[${host}]` : host}:${port}`;
  return { server, namespace: await line(`${folder}/namespace`).catch(() => undefined), read };
}

async function line(path: string): Promise<string> {
  const text = (await Deno.readTextFile(path)).trim();
  if (text === "") throw new Error(`${path} is empty`);
  return text;
}

/**
 * Deno's own fetch: the library makes a connection for each request. HTTP/1.1, so that no dead connection is shared. When
 * certificates are renewed the client that has the old ones is closed; requests that have begun with it go on to their end.
 */
export function transport({ read }: Pick<Credentials, "read">): Pick<KubeOptions, "headers" | "fetch"> {
  let made: { key: string; client: Deno.HttpClient } | undefined;
  const headers = async () => {
    const { headers, ca, cert, key } = await read();
    const wanted = JSON.stringify([ca, cert, key]);
    if (made?.key !== wanted) {
      const tls = { ...(ca ? { caCerts: [ca] } : {}), ...(cert && key ? { cert, key } : {}) };
      const former = made?.client;
      made = { key: wanted, client: Deno.createHttpClient({ ...tls, http2: false }) };
      former?.close();
    }
    return headers;
  };
  return {
    headers,
    fetch: (url, init) => fetch(url, { ...init, ...(made ? { client: made.client } : {}) }),
  };
}

function unusable(why: string, cause: unknown): FailedPrecondition {
  return new FailedPrecondition(
    `the Kubernetes API cannot be used: ${why}. In a cluster the pod's service account is used; elsewhere name a file ` +
      "with --kubeconfig; --standalone runs without Kubernetes (for trials)",
    { cause },
  );
}
