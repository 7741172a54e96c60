import type { KubeClient } from "./client.ts";
import { type PersistentVolume, persistentVolumes, type VolumeAttachment, volumeAttachments } from "./objects.ts";

/** What is made. */
export interface ManyOptions {
  count: number;
  driver: string;
  /** The nodes, one after the other; the first has every so many-th volume. */
  nodes: readonly string[];
  /** What PVs and attachments are called before their number: `many` by default. */
  name?: string;
  /** Of the PV with this number; ReadWriteOnce by default. */
  accessMode?: (number: number) => string;
  /** The volume's id; a well-formed one of the number by default. */
  handle?: (number: number) => string;
  /** Requests at a time; 32 by default. */
  atOnce?: number;
}

/** A volume id as the driver makes them, of a number. */
export function handleOf(number: number): string {
  return `pvc-${number.toString(16).padStart(28, "0")}`;
}

/**
 * Makes PVs, and an attachment of each that is `attached`, as if it had long been granted. An attacher of this driver must
 * not run meanwhile: it would try to attach them before they are said to be. 10,000 take 20 s on two processors.
 */
export async function makeAttachments(kube: KubeClient, options: ManyOptions): Promise<void> {
  await each(options.count, options.atOnce ?? 32, async (number) => {
    const volume = volumeOf(number, options);
    const attachment = attachmentOf(number, options);
    const { name } = attachment.metadata;
    await Promise.all([kube.create(persistentVolumes, volume), kube.create(volumeAttachments, attachment)]);
    // What is created has no status.
    const status = { attached: true, attachmentMetadata: contextOf(volume) };
    await kube.patch(volumeAttachments, { name }, { status }, "status");
  });
}

/** Does it for the numbers from 0 on, so many at a time. The first failure ends it. */
async function each(count: number, atOnce: number, work: (number: number) => Promise<void>): Promise<void> {
  let next = 0;
  const worker = async () => {
    while (next < count) await work(next++);
  };
  try {
    await Promise.all(Array.from({ length: atOnce }, worker));
  } finally {
    next = count;
  }
}

function volumeOf(number: number, options: ManyOptions): PersistentVolume {
  const { name = "many", driver, accessMode = () => "ReadWriteOnce", handle = handleOf } = options;
  return {
    metadata: { name: `${name}-${number}` },
    spec: {
      accessModes: [accessMode(number)],
      capacity: { storage: "1Gi" },
      volumeMode: "Block",
      persistentVolumeReclaimPolicy: "Retain",
      storageClassName: "many",
      csi: { driver, volumeHandle: handle(number) },
    },
  };
}

function attachmentOf(number: number, { name = "many", driver, nodes }: ManyOptions): VolumeAttachment {
  const own = `${name}-${number}`;
  const nodeName = nodes[number % nodes.length] ?? "";
  return { metadata: { name: own }, spec: { attacher: driver, nodeName, source: { persistentVolumeName: own } } };
}

function contextOf({ metadata, spec }: PersistentVolume): Record<string, string> {
  return { volume_id: spec.csi?.volumeHandle ?? "", pv_name: metadata.name };
}
