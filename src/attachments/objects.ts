import { type PvObject, RESET, type VolumeAttachmentObject } from "../kube/objects.ts";
import type { AccessMode, Attachment } from "./decide.ts";

/** A claim of a pod, which a PV is bound to. */
export interface Claim {
  namespace: string;
  name: string;
  uid: string | undefined;
}

/** What is kept of a PV of this driver. */
export interface Pv {
  name: string;
  /** The volume's id. */
  handle: string;
  mode: AccessMode;
  claim: Claim | undefined;
  /** Milliseconds after which a live migration of it is reported as taking too long. */
  migrationTimeout: number;
  /** Somebody asks the node to try again, whatever failed before. */
  asksForReset: boolean;
  /** A node that may still write was let go while others used the volume. */
  owesFence: boolean;
}

/** What is kept of a VolumeAttachment of this driver, without what the watch adds. */
export interface VolumeAttachment extends Omit<Attachment, "seen"> {
  name: string;
  pv: string;
  /** From its publish context, where it has one: the volume's id, and the NQN that the node was told. */
  volumeId: string | undefined;
  nqn: string | undefined;
}

const DEFAULT_TIMEOUT = 300;

/** The NQN of an export that a node may still write to: it is cut off when the last node that works with it has left. */
export const OWED = "rds.csi.srvlab.io/fence-owed";

/**
 * An attachment of this driver; undefined for one of another driver.
 * @throws when it is one of ours and does not say what it attaches
 */
export function attachmentOf(object: VolumeAttachmentObject, driver: string): VolumeAttachment | undefined {
  const { metadata, spec, status } = object;
  if (spec?.attacher !== driver) return undefined;
  const [nodeId, pv] = [spec.nodeName, spec.source?.persistentVolumeName];
  if (!nodeId || !pv || !metadata.uid) {
    throw new Error(
      `the VolumeAttachment ${metadata.name} names no ${pv ? "node" : "PersistentVolume"}: it is skipped`,
    );
  }
  const context = status?.attachmentMetadata;
  return {
    uid: metadata.uid,
    name: metadata.name,
    nodeId,
    pv,
    attached: status?.attached === true,
    deleting: metadata.deletionTimestamp !== undefined,
    created: Date.parse(metadata.creationTimestamp ?? "") || 0,
    volumeId: context?.["volume_id"] || undefined,
    nqn: context?.["nvme_nqn"] || undefined,
  };
}

/** A PV of this driver; undefined for any other. ReadWriteMany among its modes makes it `multi`, whatever else there is. */
export function pvOf(object: PvObject, driver: string): Pv | undefined {
  const { csi, accessModes = [], claimRef } = object.spec ?? {};
  if (csi?.driver !== driver || !csi.volumeHandle) return undefined;
  const timeout = Number(csi.volumeAttributes?.["migrationTimeoutSeconds"] ?? DEFAULT_TIMEOUT);
  const { namespace, name, uid } = claimRef ?? {};
  return {
    name: object.metadata.name,
    handle: csi.volumeHandle,
    mode: accessModes.includes("ReadWriteMany") ? "multi" : "single",
    claim: namespace && name ? { namespace, name, uid } : undefined,
    owesFence: object.metadata.annotations?.[OWED] !== undefined,
    asksForReset: object.metadata.annotations?.[RESET] !== undefined,
    migrationTimeout: (timeout >= 30 && timeout <= 3600 ? timeout : DEFAULT_TIMEOUT) * 1000,
  };
}
