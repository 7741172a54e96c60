import type { Config } from "./config_read.ts";
import type { Kube, KubeObject } from "./kube/client.ts";
import { connectKube } from "./kube/connect.ts";
import { attachmentPath, nodePath, type VolumeAttachmentObject } from "./kube/objects.ts";
import { Deadline, pause } from "./runtime/deadline.ts";
import { messageOf } from "./runtime/errors.ts";
import { log } from "./runtime/log.ts";

/** Milliseconds that the pod's end waits at most. */
const LIMIT = 25_000;
/** Milliseconds between two looks. */
const INTERVAL = 1000;

/** Taints that say that a node is being emptied: by an administrator, by the cluster autoscaler, by Karpenter. */
const emptied = [
  "node.kubernetes.io/unschedulable",
  "ToBeDeletedByClusterAutoscaler",
  "karpenter.sh/disrupted",
  "karpenter.sh/disruption",
];

/** A Node (v1), the part of it that is read. */
interface NodeObject extends KubeObject {
  spec?: { unschedulable?: boolean; taints?: { key: string }[] };
}

/** What tells apart who waits for what. */
export interface DrainOptions {
  driverName: string;
  nodeId: string;
  signal: AbortSignal;
  /** Milliseconds between two looks. */
  interval?: number;
}

/**
 * What the node's pod runs before it stops (its `preStop` hook): while the node is being drained it waits until no volume
 * of the driver is attached to it any more, so that the node is still there to unmount them; otherwise, in a rolling update
 * for one, it ends at once. It never keeps the pod for longer than 25 s, and a failure keeps it for no time at all.
 * @returns the exit code: 0, also when it waited in vain, since the kubelet ends the pod either way
 */
export async function prestop(config: Config): Promise<number> {
  const { kubeconfig, namespace, kubeDeadline: deadline, driverName, nodeId } = config;
  using over = new Deadline(LIMIT, "the node's volumes to be detached");
  try {
    const kube = await connectKube({ kubeconfig, namespace, deadline });
    const left = await drained(kube, { driverName, nodeId, signal: over.signal });
    log.info(left === undefined ? "the node is not being drained: the pod may end" : "no volume is attached any more");
  } catch (error) {
    log.warn(`the pod ends without waiting any longer: ${messageOf(error)}`);
  }
  return 0;
}

/**
 * Waits until a node that is being drained has no attachment of the driver.
 * @returns how often it looked; undefined when the node is not being drained
 * @throws what the API server answers, and the signal's reason
 */
export async function drained(
  kube: Pick<Kube, "get" | "list">,
  { driverName, nodeId, signal, interval = INTERVAL }: DrainOptions,
): Promise<number | undefined> {
  const { spec } = await kube.get<NodeObject>(nodePath(nodeId), { signal });
  if (!spec?.unschedulable && !spec?.taints?.some(({ key }) => emptied.includes(key))) return undefined;
  for (let looks = 1;; looks++) {
    let attached = 0;
    await kube.list<VolumeAttachmentObject>(attachmentPath(), ({ spec }) => {
      if (spec?.attacher === driverName && spec.nodeName === nodeId) attached++;
    }, { signal });
    if (attached === 0) return looks;
    log.info("the node is being drained: waiting for its volumes to be detached", { attached });
    await pause(interval, signal);
  }
}
