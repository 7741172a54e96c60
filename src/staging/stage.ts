import { type Content, type Filesystems, type FilesystemType, filesystemType } from "../mounts/filesystem.ts";
import { resolved } from "../mounts/mountinfo.ts";
import { checkedMountOptions } from "../mounts/options.ts";
import type { Device, Target } from "../nvme/session.ts";
import { NotInstalled } from "../runtime/command.ts";
import { throwIfAborted } from "../runtime/deadline.ts";
import { Cancelled, FailedPrecondition, isRetriable } from "../runtime/errors.ts";
import { log } from "../runtime/log.ts";
import type { StagingParts } from "./parts.ts";
import type { StagingRecord } from "./records.ts";
import { publishedNodes, requireKind, tracesOf, usesBesideRecord } from "./uses.ts";
import {
  atPromisedSize,
  type Cancellable,
  requireKeepable,
  requireSame,
  targetOf,
  type VolumeInput,
} from "./volume.ts";

/**
 * Makes a volume ready on this node (CSI 1.13 §NodeStageVolume): connected, and for a filesystem made if the device is
 * proven empty, mounted at the staging path and as large as its device. A block volume leaves nothing at that path.
 * Any step that is done already is a no-op. A refusal leaves no session that was not there before.
 * @throws {FailedPrecondition} when another generation of the volume is connected, or the volume is in use as the other kind
 */
export async function stage(parts: StagingParts, input: VolumeInput, options: Cancellable = {}): Promise<void> {
  const target = targetOf(input, parts);
  requireKeepable(input);
  const plan = input.capability.kind === "filesystem" ? planOf(input, input.capability) : undefined;
  if (plan) await parts.mounts.requirePlace(input.stagingPath, options);
  const present = await parts.sessions.ofVolume(input.volumeId, options);
  const other = present.find(({ nqn }) => nqn !== target.nqn);
  if (other) throw otherGeneration(input.volumeId, target.nqn, other.nqn);
  try {
    await stageConnected(parts, { input, target, plan }, options);
  } catch (error) {
    const comesBack = isRetriable(error) || error instanceof Cancelled;
    if (present.length === 0 && !comesBack) await letGo(parts, input.volumeId, target.nqn);
    throw error;
  }
}

async function stageConnected(
  parts: StagingParts,
  { input, target, plan }: { input: VolumeInput; target: Target; plan: Plan | undefined },
  options: Cancellable,
): Promise<void> {
  const connected = await parts.sessions.connect(target, options);
  const device = await atPromisedSize(parts, input, connected, options);
  const { volumeId, stagingPath, capability: { kind } } = input;
  const before = await recordBefore(parts, input, options);
  await requireKind(parts, kind, { volumeId, device, record: before, ...options });
  const { nqn, majorMinor } = device;
  const targets = before?.targets ? { targets: before.targets } : {};
  const pv = input.publishContext.pv_name || before?.pv;
  const noted = { ...(pv ? { pv } : {}), target, ...targets };
  const record: StagingRecord = { volumeId, nqn, kind, majorMinor, stagingPath, ...noted };
  // Another export has another content: what was begun on one says nothing of the next.
  const intent = before?.nqn === nqn ? before.mkfs : undefined;
  if (plan) await stageFilesystem(parts, { device, plan, record, intent }, options);
  if (JSON.stringify(before) !== JSON.stringify(record)) await parts.records.write(record);
}

/** What was noted. A record that cannot be used is replaced only for a filesystem that nobody is seen to use. */
async function recordBefore(
  parts: StagingParts,
  { volumeId, stagingPath, capability }: VolumeInput,
  { signal }: Cancellable,
): Promise<StagingRecord | undefined> {
  const traces = await tracesOf(parts, volumeId, { signal });
  if (!traces.unusable) return traces.record;
  const uses = await usesBesideRecord(parts, traces, { stagingPath, signal });
  if (capability.kind === "block" || uses.length > 0) throw traces.unusable;
  log.warn("a staging record that cannot be used is replaced", { volumeId, error: traces.unusable });
  return undefined;
}

function otherGeneration(volumeId: string, nqn: string, other: string): FailedPrecondition {
  return new FailedPrecondition(
    `volume ${volumeId} is connected on this node as ${other} and was asked for as ${nqn}: two devices of one volume would ` +
      `destroy it. Delete the volume's pods on this node, so that it is unstaged; if nothing uses it: 'nvme disconnect -n ${other}'`,
  );
}

/** Ends the session that a refused stage made, unless anything is seen to use it. */
async function letGo(parts: StagingParts, volumeId: string, nqn: string): Promise<void> {
  try {
    const traces = await tracesOf(parts, volumeId);
    const uses = [...await usesBesideRecord(parts, traces, {}), ...await publishedNodes(traces.record)];
    if (uses.length === 0 && !traces.unusable) await parts.sessions.disconnect(nqn);
  } catch (error) {
    log.warn("the session of a refused stage stays", { volumeId, error });
  }
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
  const given = checkedMountOptions(capability.mountOptions);
  const isMode = (option: string) => option === "ro" || option === "rw";
  const readOnly = input.readOnly || given.findLast(isMode) === "ro"; // For mount(8) the last one counts.
  const others = given.filter((option) => !isMode(option));
  return {
    type: filesystemType(capability.fsType || input.publishContext.fs_type || "ext4"),
    mountOptions: readOnly ? [...others, "ro"] : others,
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
  await requireSame(parts, device, options);
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
  const unfinished = intent !== undefined && await isUnfinished(filesystems, content, { intent, device });
  if (content.kind === "empty" || unfinished) {
    log.info("making a filesystem", { volumeId: record.volumeId, device: device.name, type, unfinished });
    await makeFilesystem(parts, { ...work, intent: unfinished ? intent : undefined }, options);
    return true;
  }
  if (content.kind === "filesystem" && content.type === type) {
    if (intent !== undefined) await parts.records.write(record); // It is there: nothing is left to be finished.
    await filesystems.check(type, device);
    return false;
  }
  throw new FailedPrecondition(refusal(work, content.kind === "data" ? `data (${content.where})` : content.type));
}

/** Only this node knows that it was its own mkfs that was cut off, and only what nobody can name is written over. */
async function isUnfinished(
  filesystems: Filesystems,
  content: Content,
  { intent, device }: { intent: string; device: Device },
): Promise<boolean> {
  if (content.kind === "data") return !await filesystems.hasSecondSuperblock(device);
  return intent === "xfs" && content.kind === "filesystem" && content.type === "xfs" &&
    await filesystems.xfsUnfinished(device);
}

/** Makes the filesystem, with a note on disk for as long as nobody knows whether mkfs has come to its end. */
async function makeFilesystem(parts: StagingParts, work: Work, options: Cancellable): Promise<void> {
  const { device, plan: { type }, record, intent } = work;
  const asBefore = intent === undefined ? record : { ...record, mkfs: intent };
  await requireSame(parts, device, options);
  await parts.records.write({ ...record, mkfs: type });
  let begun = false;
  try {
    await requireSame(parts, device, options);
    throwIfAborted(options.signal);
    begun = true;
    await parts.filesystems(options.signal).make(type, device, { force: intent !== undefined });
  } catch (error) {
    if (!begun || error instanceof NotInstalled) await parts.records.write(asBefore);
    throw error;
  }
  await parts.records.write(record);
}

function refusal({ device, plan: { type }, record: { volumeId } }: Work, found: string): string {
  return `the device of volume ${volumeId} (${device.path}) holds ${found}, neither nothing nor the filesystem ${type}: it is ` +
    "not formatted. If the volume's fsType was changed, change it back. If another node's mkfs was cut off, start a pod " +
    "there, which finishes it. If it may be a filesystem that lost its beginning, look with 'e2fsck -n -b 32768' or " +
    "'xfs_repair -n' first; or, when nothing of it is needed, delete the claim or empty it with zeros " +
    `('blkdiscard -z ${device.path}')`;
}
