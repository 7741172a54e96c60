import { type FilesystemType, filesystemType } from "../mounts/filesystem.ts";
import { resolved } from "../mounts/mountinfo.ts";
import { checkedMountOptions } from "../mounts/options.ts";
import type { Device } from "../nvme/session.ts";
import { FailedPrecondition } from "../runtime/errors.ts";
import { log } from "../runtime/log.ts";
import type { StagingParts } from "./parts.ts";
import type { StagingRecord } from "./records.ts";
import { atPromisedSize, type Cancellable, requireSame, targetOf, type VolumeInput } from "./volume.ts";

/**
 * Makes a volume ready on this node (CSI 1.13 §NodeStageVolume): connected, and for a filesystem made if the device is
 * proven empty, mounted at the staging path and as large as its device. A block volume leaves nothing at that path.
 * Any step that is done already is a no-op.
 */
export async function stage(parts: StagingParts, input: VolumeInput, options: Cancellable = {}): Promise<void> {
  const target = targetOf(input, parts);
  const plan = input.capability.kind === "filesystem" ? planOf(input, input.capability) : undefined;
  const connected = await parts.sessions.connect(target, options);
  const device = await atPromisedSize(parts, input, connected, options);
  const before = await parts.records.read(input.volumeId);
  const record: StagingRecord = {
    volumeId: input.volumeId,
    nqn: device.nqn,
    kind: input.capability.kind,
    device: device.name,
    majorMinor: device.majorMinor,
    stagingPath: input.stagingPath,
    ...(plan ? { fsType: plan.type } : {}),
    ...(before?.targets ? { targets: before.targets } : {}),
  };
  if (plan) await stageFilesystem(parts, { device, plan, record, intent: before?.mkfs }, options);
  if (JSON.stringify(before) !== JSON.stringify(record)) await parts.records.write(record);
}

interface Plan {
  type: FilesystemType;
  mountOptions: string[];
  readOnly: boolean;
}

interface Work {
  device: Device;
  plan: Plan;
  record: StagingRecord;
  /** The filesystem whose mkfs this node began and did not see the end of. */
  intent: string | undefined;
}

function planOf(input: VolumeInput, capability: { fsType: string; mountOptions: readonly string[] }): Plan {
  const mountOptions = checkedMountOptions(capability.mountOptions);
  const readOnly = input.readOnly || mountOptions.includes("ro");
  return {
    type: filesystemType(capability.fsType || input.publishContext.fs_type || "ext4"),
    mountOptions: readOnly && !mountOptions.includes("ro") ? [...mountOptions, "ro"] : mountOptions,
    readOnly,
  };
}

async function stageFilesystem(parts: StagingParts, work: Work, options: Cancellable): Promise<void> {
  const { device, plan: { type, mountOptions, readOnly }, record } = work;
  const { stagingPath } = record;
  // A device that is mounted anywhere has its filesystem: it is neither looked into nor checked under its users.
  const path = await resolved(stagingPath);
  const mounts = await parts.mounts.all(options);
  const idle = !mounts.some((mount) => mount.majorMinor === device.majorMinor || mount.target === path);
  const made = idle && await ensureFilesystem(parts, work, options);
  await parts.mounts.mount(device, stagingPath, { fsType: type, mountOptions, signal: options.signal });
  if (made || readOnly) return;
  await parts.filesystems(options.signal).grow(type, device, stagingPath).catch((error) => {
    if (!(error instanceof FailedPrecondition)) throw error;
    // What is there can be used. Whoever asks for the growth itself (NodeExpandVolume) is told.
    log.warn("a filesystem is not grown", { volumeId: record.volumeId, error });
  });
}

/** @returns whether the filesystem was made now */
async function ensureFilesystem(parts: StagingParts, work: Work, options: Cancellable): Promise<boolean> {
  const { device, plan: { type }, record, intent } = work;
  const filesystems = parts.filesystems(options.signal);
  const content = await filesystems.content(device);
  // Only this node knows that it was its own mkfs that was cut off, and only what nobody can name is written over.
  const unfinished = intent !== undefined &&
    (content.kind === "data" || (intent === "xfs" && content.kind === "filesystem" && content.type === "xfs" &&
      await filesystems.xfsUnfinished(device)));
  if (content.kind === "empty" || unfinished) {
    log.info("making a filesystem", { volumeId: record.volumeId, device: device.name, type, unfinished });
    await parts.records.write({ ...record, mkfs: type });
    await requireSame(parts, device);
    await filesystems.make(type, device, { force: unfinished });
    return true;
  }
  if (content.kind === "filesystem" && content.type === type) {
    await filesystems.check(type, device);
    return false;
  }
  throw new FailedPrecondition(refusal(work, content.kind === "data" ? `data (${content.where})` : content.type));
}

function refusal({ device, plan: { type }, record: { volumeId } }: Work, found: string): string {
  return `the device of volume ${volumeId} (${device.path}) holds ${found}, neither nothing nor the filesystem ${type}: it is ` +
    "not formatted. If the volume's fsType was changed, change it back. If another node's mkfs was cut off, start a pod " +
    `there, which finishes it; or, when nothing of it is needed, delete the claim or empty it ('wipefs -a' and zeros over ` +
    `the first and last MiB of ${device.path})`;
}
