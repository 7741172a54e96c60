import { type GoTool, goTool } from "../go_tools.ts";

const KUBERNETES = "1.34.2";

function kubernetes(name: string): GoTool {
  const [major = "", minor = ""] = KUBERNETES.split(".");
  const version = "k8s.io/component-base/version.git";
  return {
    name,
    version: `v${KUBERNETES}`,
    package: `k8s.io/kubernetes/cmd/${name}`,
    module: {
      path: "k8s.io/kubernetes",
      // Its parts are released as modules too: 1.34.2 as v0.34.2.
      replaced: `v0.${minor}.${KUBERNETES.split(".")[2]}`,
      variables: {
        [`${version}Version`]: `v${KUBERNETES}`,
        [`${version}Major`]: major,
        [`${version}Minor`]: minor,
        "k8s.io/client-go/pkg/version.gitVersion": `v${KUBERNETES}`,
      },
    },
  };
}

function sidecar(name: string, module: string, version: string): GoTool {
  const path = `github.com/kubernetes-csi/${module}`;
  return { name, version, package: `${path}/cmd/${name}`, module: { path, variables: { "main.version": version } } };
}

const tools = {
  "etcd": {
    name: "etcd",
    version: "v3.6.4",
    package: "go.etcd.io/etcd/server/v3",
    module: { path: "go.etcd.io/etcd/server/v3" },
  },
  "kube-apiserver": kubernetes("kube-apiserver"),
  "kube-controller-manager": kubernetes("kube-controller-manager"),
  "kube-scheduler": kubernetes("kube-scheduler"),
  "kubelet": kubernetes("kubelet"),
  "kubectl": kubernetes("kubectl"),
  "csi-provisioner": sidecar("csi-provisioner", "external-provisioner/v6", "v6.3.0"),
  "csi-attacher": sidecar("csi-attacher", "external-attacher/v4", "v4.12.0"),
  "csi-resizer": sidecar("csi-resizer", "external-resizer", "v1.14.0"),
} as const satisfies Readonly<Record<string, GoTool>>;

/** Programs of Kubernetes that can be had. */
export type KubernetesTool = keyof typeof tools;

/** The path of a program of Kubernetes, built when it is not there yet: that takes minutes. */
export function kubernetesTool(name: KubernetesTool): Promise<string> {
  return goTool(tools[name]);
}

/** What a control plane and the driver's sidecars need. */
const controlPlane = [
  "etcd",
  "kube-apiserver",
  "kube-controller-manager",
  "csi-provisioner",
  "csi-attacher",
  "csi-resizer",
] as const;

/** Builds what a control plane and the driver's sidecars need, one after the other: each build takes all processors. */
export async function layerTools(...more: KubernetesTool[]): Promise<void> {
  for (const name of [...controlPlane, ...more]) await kubernetesTool(name);
}
