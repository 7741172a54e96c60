import type { KubeObject } from "./client.ts";

/** A VolumeAttachment (storage.k8s.io/v1), the part of it that is read. */
export interface VolumeAttachmentObject extends KubeObject {
  spec?: { attacher?: string; nodeName?: string; source?: { persistentVolumeName?: string } };
  status?: { attached?: boolean; attachmentMetadata?: Record<string, string> };
}

/** A PersistentVolume (v1), the part of it that is read. */
export interface PvObject extends KubeObject {
  spec?: {
    accessModes?: string[];
    csi?: { driver?: string; volumeHandle?: string; volumeAttributes?: Record<string, string> };
    claimRef?: { namespace?: string; name?: string; uid?: string };
  };
}

/** A Node (v1), the part of it that tells which machine it is: the start of the kernel that its kubelet runs on. */
export interface MachineObject extends KubeObject {
  status?: { nodeInfo?: { bootID?: string } };
}

/** Set to `true` on a PV by people; read by the node. */
export const RESET = "rds.csi.srvlab.io/reset-circuit-breaker";

export function pvPath(name = ""): string {
  return `/api/v1/persistentvolumes${name && `/${encodeURIComponent(name)}`}`;
}

export function attachmentPath(name = ""): string {
  return `/apis/storage.k8s.io/v1/volumeattachments${name && `/${encodeURIComponent(name)}`}`;
}

export function nodePath(name: string): string {
  return `/api/v1/nodes/${encodeURIComponent(name)}`;
}

export function csiNodePath(): string {
  return "/apis/storage.k8s.io/v1/csinodes";
}
