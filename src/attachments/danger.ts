import type { KubeObject } from "../kube/client.ts";
import type { AccessMode, Attachment } from "./decide.ts";

/** A Node (v1), the part of it that is read. */
export interface NodeObject extends KubeObject {
  spec?: { taints?: { key: string; effect?: string }[] };
  status?: { conditions?: { type: string; status: string }[]; volumesInUse?: string[] };
}

const OUT_OF_SERVICE = "node.kubernetes.io/out-of-service";

/** Why a node may be lost, with whatever it runs; undefined when it is well. @param node undefined: there is none */
export function whyLost(node: NodeObject | undefined): string | undefined {
  if (!node) return "the node is gone from Kubernetes";
  const taints = node.spec?.taints ?? [];
  if (taints.some(({ key }) => key === OUT_OF_SERVICE)) return `the node has the taint ${OUT_OF_SERVICE}`;
  const ready = node.status?.conditions?.find(({ type }) => type === "Ready");
  return ready?.status === "True" ? undefined : `the node is not Ready (${ready?.status ?? "it does not say"})`;
}

/**
 * Why a node may still write to a volume that Kubernetes takes away from it; undefined when it has let go in good order.
 * Kubernetes detaches after six minutes from a node that is missing or not Ready, whether it has unmounted or not, and the
 * kubelet lists in `volumesInUse` what is mounted.
 * @param node the Node as it is now; undefined when the API server says that there is none
 * @param volume.since when the node's attachment was made, by the API server's clock
 */
export function whyDangerous(
  node: NodeObject | undefined,
  volume: { driver: string; handle: string; since?: number | undefined },
): string | undefined {
  const why = whyLost(node);
  if (why !== undefined) return why;
  const born = Date.parse(node?.metadata.creationTimestamp ?? "");
  if (volume.since && born > volume.since) return "the node was made anew under its name since it was given the volume";
  const inUse = node?.status?.volumesInUse?.includes(`kubernetes.io/csi/${volume.driver}^${volume.handle}`);
  return inUse ? "the node still lists the volume in status.volumesInUse" : undefined;
}

/**
 * The other attachments that may be at work with the export as it is: a fence would cut them off too. Holders are, and
 * claims, because a grant may be on its way to them, except where one that leaves had the only place.
 */
export function atWork<A extends Attachment>(all: readonly A[], leaving: readonly string[], mode: AccessMode): A[] {
  const isTaken = mode === "single" && all.some(({ attached, nodeId }) => attached && leaving.includes(nodeId));
  return all.filter(({ nodeId, attached }) => !leaving.includes(nodeId) && (attached || !isTaken));
}
