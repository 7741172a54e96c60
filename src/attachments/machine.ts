import type { Kube, KubeObject } from "../kube/client.ts";

/** A pod, as far as a machine's volumes are concerned. */
export interface Pod {
  uid: string;
  /** Names of the claims that it uses. */
  claims: ReadonlySet<string>;
  /** Finished, or being deleted. */
  isLeaving: boolean;
  isReady: boolean;
  /** The KubeVirt machine that it says it belongs to. */
  machine: string | undefined;
  /** UIDs of pods that own it. */
  owners: readonly string[];
}

interface PodObject extends KubeObject {
  spec?: { volumes?: { persistentVolumeClaim?: { claimName: string } }[] };
  status?: { phase?: string; conditions?: { type: string; status: string }[] };
}

/**
 * All pods of a namespace. Not those of one node: a pod that is not scheduled yet is of that machine too.
 * @throws when they cannot be listed: which machine it is, is then not known
 */
export async function podsOf(kube: Pick<Kube, "list">, namespace: string, signal?: AbortSignal): Promise<Pod[]> {
  const pods: Pod[] = [];
  await kube.list<PodObject>(`/api/v1/namespaces/${namespace}/pods`, (pod) => pods.push(podOf(pod)), { signal });
  return pods;
}

/**
 * The machine that a pod belongs to: its owner (a launcher pod), its owner's owner (KubeVirt's hot-plug pods are owned by
 * the launcher pod), or a label.
 */
export function machineOf(pod: Pod, pods: readonly Pod[]): string | undefined {
  const owner = pods.find(({ uid }) => pod.owners.includes(uid));
  return pod.machine ?? owner?.machine;
}

function podOf({ metadata, spec, status }: PodObject): Pod {
  const owners = metadata.ownerReferences ?? [];
  const machine = owners.find(({ kind }) => kind === "VirtualMachineInstance")?.name;
  const { labels = {} } = metadata;
  const claims = spec?.volumes?.flatMap(({ persistentVolumeClaim }) => persistentVolumeClaim?.claimName ?? []);
  return {
    uid: metadata.uid ?? metadata.name,
    claims: new Set(claims),
    isLeaving: /^(Succeeded|Failed)$/.test(status?.phase ?? "") || metadata.deletionTimestamp !== undefined,
    isReady: status?.conditions?.some(({ type, status }) => type === "Ready" && status === "True") ?? false,
    machine: machine ?? labels["kubevirt.io/vmi"] ?? labels["vm.kubevirt.io/name"],
    owners: owners.filter(({ kind }) => kind === "Pod").map(({ uid }) => uid),
  };
}
