import type { Content, Filesystems } from "../mounts/filesystem.ts";
import { resolved } from "../mounts/mountinfo.ts";
import type { Device, Target } from "../nvme/session.ts";
import type { ManagedSession } from "../nvme/sysfs.ts";
import { NotInstalled, Stuck } from "../runtime/command.ts";
import { throwIfAborted } from "../runtime/deadline.ts";
import { Cancelled, FailedPrecondition, InUse, isRetriable, Unreachable } from "../runtime/errors.ts";
import { log } from "../runtime/log.ts";
import { letGo } from "./let_go.ts";
import type { StagingParts } from "./parts.ts";
import type { StagingRecord } from "./records.ts";
import { recover } from "./recovery.ts";
import { pinned, requireSame } from "./same_device.ts";
import { endTrial, tryMount } from "./trial_mount.ts";
import { unstage } from "./unstage.ts";
import { described, othersOf, usersOf } from "./users.ts";
import { requireKind, tracesOf, withoutOldNodes } from "./uses.ts";
import {
  atPromisedSize,
  type Cancellable,
  connectVolume,
  isAttachedAs,
  type Plan,
  planOf,
  recordOf,
  requireKeepable,
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
  const wanted = present.find(({ nqn }) => nqn === target.nqn);
  if (!wanted) await noteLeft(parts, input.volumeId, options);
  for (const other of present.filter((each) => each !== wanted)) {
    await endOther(parts, { input, nqn: target.nqn, other }, options);
  }
  try {
    await stageConnected(parts, { input, target, plan, wasConnected: wanted !== undefined }, options);
  } catch (error) {
    const comesBack = isRetriable(error) || error instanceof Cancelled;
    if (present.length === 0 && !comesBack) await undo(parts, input.volumeId, target.nqn);
    throw error;
  }
}

interface Task {
  input: VolumeInput;
  target: Target;
  plan: Plan | undefined;
  wasConnected: boolean;
}

async function stageConnected(parts: StagingParts, task: Task, options: Cancellable): Promise<void> {
  const { input, target, plan } = task;
  const { volumeId, capability: { kind } } = input;
  const device = await connectedDevice(parts, task, options);
  const noted = await recordBefore(parts, input, options);
  await requireKind(parts, kind, { volumeId, device, record: noted, ...options });
  if (noted) await recover(parts, { volumeId }, device, options);
  const before = noted && await parts.records.read(volumeId);
  const record = recordOf(input, { target, plan, device }, before);
  // Another export has another content: what was begun on one says nothing of the next.
  const intent = before?.nqn === device.nqn ? intentOf(before) : undefined;
  if (plan) await stageFilesystem(parts, { device, plan, record, intent }, options);
  if (JSON.stringify(before) !== JSON.stringify(record)) await parts.records.write(record);
}

/** Before a volume is connected anew, as whatever comes after that may be cut off and repeated. */
async function noteLeft(parts: StagingParts, volumeId: string, options: Cancellable): Promise<void> {
  const { record } = await tracesOf(parts, volumeId, options);
  if (record?.mkfs !== undefined && !record.mkfsLeft) await parts.records.write({ ...record, mkfsLeft: true });
}

/** The device in its promised size. Where exports grow only on reconnection, what nobody uses is connected anew. */
async function connectedDevice(parts: StagingParts, task: Task, options: Cancellable): Promise<Device> {
  const { input, target, wasConnected } = task;
  const connected = await connectVolume(parts, { volumeId: input.volumeId, target }, options);
  try {
    return await atPromisedSize(parts, input, connected, options);
  } catch (error) {
    const isLive = async () => (await parts.sysfs.session(target.nqn, options))?.live === true;
    if (!wasConnected || !(error instanceof Unreachable) || !await isLive()) throw error;
    if ((await usesAtAll(parts, input.volumeId, options)).length > 0) throw error;
  }
  log.info("connecting a volume anew, as the server does not show its growth to a connected node", { nqn: target.nqn });
  await unstage(parts, input, options); // Proves first that nobody holds the device unseen.
  const anew = await connectVolume(parts, { volumeId: input.volumeId, target }, options);
  return await atPromisedSize(parts, input, anew, options);
}

/**
 * Ends the session of another generation, which no fence and no restored server serves any more: a dead one as
 * {@linkcode letGo} has it, a live one that nobody uses when Kubernetes has the volume attached here under the new NQN.
 */
async function endOther(
  parts: StagingParts,
  { input, nqn, other }: { input: VolumeInput; nqn: string; other: ManagedSession },
  options: Cancellable,
): Promise<void> {
  const { volumeId, stagingPath } = input;
  if (!other.live) return await letGo(parts, volumeId, options);
  if (!await isAttachedAs(parts, { volumeId, nqn }, options)) throw otherGeneration(volumeId, nqn, other.nqn);
  try {
    await unstage(parts, { volumeId, stagingPath }, options);
  } catch (error) {
    if (error instanceof InUse) throw otherGeneration(volumeId, nqn, other.nqn, error);
    throw error;
  }
}

/** What was noted. A record that cannot be used is replaced only for a filesystem that nobody is seen to use. */
async function recordBefore(
  parts: StagingParts,
  { volumeId, stagingPath, capability }: VolumeInput,
  { signal }: Cancellable,
): Promise<StagingRecord | undefined> {
  const traces = await tracesOf(parts, volumeId, { signal });
  if (!traces.unusable) return await withoutOldNodes(parts, traces.record);
  if (capability.kind === "block") throw traces.unusable;
  const others = await othersOf(parts, { ...traces, unusable: undefined }, { stagingPath, signal });
  if (others.length > 0) throw traces.unusable;
  log.warn("a staging record that cannot be used is replaced", { volumeId, error: traces.unusable });
  return undefined;
}

function otherGeneration(volumeId: string, nqn: string, other: string, cause?: Error): FailedPrecondition {
  return new FailedPrecondition(
    `volume ${volumeId} is connected on this node as ${other} and was asked for as ${nqn}: two devices of one volume would ` +
      `destroy it. ${
        cause ? `${cause.message}. ` : ""
      }Delete the volume's pods on this node, so that it is unstaged; if ` +
      `nothing uses it: 'nvme disconnect -n ${other}'`,
    { cause },
  );
}

/**
 * Ends the session that a refused stage made, unless anything is seen to use it.
 * @throws {Stuck} when that hangs, so that the volume stays guarded
 */
async function undo(parts: StagingParts, volumeId: string, nqn: string): Promise<void> {
  try {
    if ((await usesAtAll(parts, volumeId)).length === 0) await parts.sessions.disconnect(nqn);
  } catch (error) {
    if (error instanceof Stuck) throw error;
    log.warn("the session of a refused stage stays", { volumeId, error });
  }
}

/**
 * Whatever is seen to use a volume, its staging mount included.
 * @throws {FailedPrecondition} when its record cannot be used: then not all can be seen
 */
async function usesAtAll(parts: StagingParts, volumeId: string, options: Cancellable = {}): Promise<string[]> {
  const traces = await tracesOf(parts, volumeId, options);
  return (await usersOf(parts, traces, options)).map(described);
}

interface Work {
  device: Device;
  plan: Plan;
  record: StagingRecord;
  /** The mkfs that this node began and did not see the end of. */
  intent: Intent | undefined;
}

/** Just as it is noted. */
type Intent = Required<Pick<StagingRecord, "mkfs">> & Pick<StagingRecord, "mkfsLeft">;

function intentOf({ mkfs, mkfsLeft }: StagingRecord): Intent | undefined {
  return mkfs === undefined ? undefined : { mkfs, ...(mkfsLeft ? { mkfsLeft } : {}) };
}

async function stageFilesystem(parts: StagingParts, work: Work, options: Cancellable): Promise<void> {
  const { device, plan: { type, mountOptions, readOnly }, record } = work;
  const { stagingPath } = record;
  // A device that is mounted anywhere has its filesystem: it is neither looked into nor checked under its users.
  const path = await resolved(stagingPath);
  const trial = { device, stagingPath, mount: { fsType: type, options: mountOptions } };
  await endTrial(parts, trial, options);
  const mounts = await parts.mounts.all(options);
  const idle = !mounts.some((mount) => mount.majorMinor === device.majorMinor || mount.target === path);
  const made = idle && await ensureFilesystem(parts, work, options);
  await pinned(parts, device, async () => {
    if (idle && !made) await tryMount(parts, trial, options);
    await parts.mounts.mount(device, stagingPath, { fsType: type, mountOptions, signal: options.signal });
  }, options);
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

/**
 * Only this node knows that it was its own mkfs that was cut off, and only what nobody can name is written over. mke2fs
 * writes all copies of the superblock, waits until they are on disk, and then writes the first (lib/ext2fs/closefs.c): while
 * the volume has not left this node a copy is its own. Afterwards it may be of a filesystem that lost its beginning.
 */
async function isUnfinished(
  filesystems: Filesystems,
  content: Content,
  { intent: { mkfs, mkfsLeft }, device }: { intent: Intent; device: Device },
): Promise<boolean> {
  if (content.kind === "data") return !mkfsLeft || !await filesystems.hasSecondSuperblock(device);
  return mkfs === "xfs" && content.kind === "filesystem" && content.type === "xfs" &&
    await filesystems.xfsUnfinished(device);
}

/** Makes the filesystem, with a note on disk for as long as nobody knows whether mkfs has come to its end. */
async function makeFilesystem(parts: StagingParts, work: Work, options: Cancellable): Promise<void> {
  const { device, plan: { type }, record, intent } = work;
  const asBefore = { ...record, ...intent };
  await requireSame(parts, device, options);
  await parts.records.write({ ...record, mkfs: type });
  let begun = false;
  try {
    await pinned(parts, device, async () => {
      throwIfAborted(options.signal);
      begun = true;
      await parts.filesystems(options.signal).make(type, device, { force: intent !== undefined });
    }, options);
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
