import type { Reason } from "../kube/reasons.ts";
import type { Cancellable } from "./volume.ts";

/** An attachment of a volume to this node, as Kubernetes has it. */
export interface AttachmentHere {
  volumeId: string;
  /** The NQN that this node was told; undefined when it was told none yet. */
  nqn: string | undefined;
  attached: boolean;
  deleting: boolean;
}

/**
 * What the node asks of Kubernetes, each time anew. Every question throws when there is no answer: nothing is then known,
 * and nothing may be concluded.
 */
export interface Cluster {
  /** UIDs of the pods that Kubernetes has on this node, those that are ending included. */
  podsHere(options: Cancellable): Promise<ReadonlySet<string>>;
  /** All attachments of this driver's volumes to this node. */
  attachmentsHere(options: Cancellable): Promise<readonly AttachmentHere[]>;
  /** An annotation of the volume's PV; undefined when it has none, or there is no such PV. */
  annotation(volume: Known, key: string, options: Cancellable): Promise<string | undefined>;
  /** UID of this node's Node object. */
  nodeUid(options: Cancellable): Promise<string>;
  /** Tells people, as an event of the volume's claim. Never waits, never throws. */
  tell(volume: Known, reason: Reason, message: string): void;
}

/** How a volume is known. */
export interface Known {
  volumeId: string;
  /** Name of its PV, where the node was told it; else the id is tried. */
  pv?: string | undefined;
}
