import { isNothing } from "../mounts/mountinfo.ts";
import { messageOf } from "../runtime/errors.ts";
import { log } from "../runtime/log.ts";
import type { StagingParts } from "./parts.ts";
import type { Cancellable } from "./volume.ts";

/** Whose the paths under the kubelet's folder are. */
export interface KubeletPods {
  /** Whether Kubernetes does not have the pod of a path on this node any more. What is not known is not gone. */
  isOrphan(path: string): boolean;
}

const uid = "([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})";

/** Of a pod are its own folder, and what the kubelet makes of its block volumes (pkg/volume/csi/csi_block.go). */
const placesOfPods = [
  new RegExp(`^/pods/${uid}/`),
  new RegExp(`^/plugins/kubernetes\\.io/csi/volumeDevices/publish/[^/]+/${uid}$`),
  new RegExp(`^/plugins/kubernetes\\.io/csi/volumeDevices/[^/]+/dev/${uid}$`),
];

/** The UID of the pod that a path belongs to. */
export function podOf(folder: string, path: string): string | undefined {
  if (!path.startsWith(`${folder}/`)) return undefined;
  const below = path.slice(folder.length);
  for (const place of placesOfPods) {
    const pod = place.exec(below)?.[1];
    if (pod) return pod;
  }
  return undefined;
}

/** The kubelet's folder as mountinfo and the kernel have it; undefined: there is none. */
export async function kubeletFolderOf(parts: StagingParts): Promise<string | undefined> {
  try {
    return await Deno.realPath(parts.kubeletFolder);
  } catch (error) {
    if (isNothing(error)) return undefined;
    throw error;
  }
}

/** Asks Kubernetes which pods it has on this node. Without an answer no pod is gone. Look at what they have before, not after. */
export async function kubeletPods(parts: StagingParts, options: Cancellable = {}): Promise<KubeletPods> {
  const folder = await kubeletFolderOf(parts);
  if (!parts.cluster || folder === undefined) return { isOrphan: () => false };
  try {
    const here = await parts.cluster.podsHere(options);
    const isOrphan = (path: string) => {
      const pod = podOf(folder, path);
      return pod !== undefined && !here.has(pod);
    };
    return { isOrphan };
  } catch (error) {
    if (options.signal?.aborted) throw error;
    log.warn("which pods are on this node is not known, so that none is taken for gone", { error: messageOf(error) });
    return { isOrphan: () => false };
  }
}
