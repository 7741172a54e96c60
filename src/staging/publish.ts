import { ensureDeviceNode, removeDeviceNode } from "../mounts/device_node.ts";
import { ensureFolder, removeEmptyFolder } from "../mounts/mount.ts";
import { infoOf, type Mount, mountsOf, resolved } from "../mounts/mountinfo.ts";
import type { Device } from "../nvme/session.ts";
import { numbersOf } from "../nvme/sysfs.ts";
import { blockNumberOf } from "../runtime/device_number.ts";
import { FailedPrecondition, InvalidArgument } from "../runtime/errors.ts";
import { log } from "../runtime/log.ts";
import { unmountBoundDevice } from "./bound_device.ts";
import { kubeletFolderOf, podOf } from "./kubelet_pods.ts";
import { letGo } from "./let_go.ts";
import type { StagingParts } from "./parts.ts";
import type { StagingRecord } from "./records.ts";
import { recover } from "./recovery.ts";
import { publishedNodes, requireKind, type Traces, tracesOf } from "./uses.ts";
import {
  atPromisedSize,
  type Cancellable,
  nqnFor,
  planOf,
  recordOf,
  requireKeepable,
  requireVolumeId,
  targetOf,
  type VolumeInput,
} from "./volume.ts";

export interface PublishInput extends VolumeInput {
  targetPath: string;
  /** No second target may have the volume (access mode SINGLE_NODE_SINGLE_WRITER). */
  exclusive: boolean;
}

/**
 * Shows a staged volume at a target path (CSI 1.13 §NodePublishVolume): a bind mount of the staging path, or a device
 * node. A no-op when the right one is there.
 * @throws {AlreadyExists} when another device is there, or the volume in the other mode
 * @throws {FailedPrecondition} when the volume is not staged
 */
export async function publish(parts: StagingParts, input: PublishInput, options: Cancellable = {}): Promise<void> {
  const nqn = nqnFor(input, parts.prefix);
  requireKeepable(input);
  const { volumeId, capability } = input;
  if (!await parts.sysfs.session(nqn, options)) throw notStaged(input, `this node has no NVMe session of ${nqn}`);
  const device = await atPromisedSize(parts, input, await parts.sessions.device(nqn, options), options);
  await recover(parts, { volumeId, targetPath: input.targetPath }, device, options);
  const record = await parts.records.read(volumeId);
  await requireKind(parts, capability.kind, { volumeId, device, record, ...options });
  if (input.exclusive) await requireNoOther(parts, input, { device, record }, options);
  if (capability.kind === "block") await publishBlock(parts, input, { device, record }, options);
  else await publishFilesystem(parts, input, { device, record }, options);
}

/** A volume as it is here now. */
interface Present {
  device: Device;
  record: StagingRecord | undefined;
}

/**
 * A record for a volume that was staged and has none: the folder was emptied, or another driver staged it. Without one
 * nothing would tell, once the kernel gives the session up, whose its mounts are, nor mend them.
 */
function recordAnew(
  parts: StagingParts,
  input: PublishInput,
  { device, staged }: { device: Device; staged?: Mount },
): StagingRecord {
  const { capability } = input;
  try {
    // Read-only may be this target alone, and what is mounted says which filesystem it is.
    const readOnly = staged?.options.includes("ro") === true;
    const plan = staged && capability.kind === "filesystem"
      ? planOf({ ...input, readOnly }, { ...capability, fsType: staged.fsType })
      : undefined;
    return recordOf(input, { device, target: targetOf(input, parts), plan });
  } catch (error) {
    if (!(error instanceof InvalidArgument)) throw error;
    log.warn("how a volume was staged is not known in full: it is not mended when its device goes", {
      volumeId: input.volumeId,
      error,
    });
    return recordOf(input, { device, target: undefined, plan: undefined });
  }
}

function notStaged({ volumeId, stagingPath }: PublishInput, why: string): FailedPrecondition {
  return new FailedPrecondition(
    `volume ${volumeId} is not staged at ${stagingPath}: ${why}. Delete the volume's pods on this node, so that it is ` +
      "unstaged and staged again",
  );
}

async function publishFilesystem(
  parts: StagingParts,
  input: PublishInput,
  { device, record: noted }: Present,
  options: Cancellable,
) {
  const staged = await parts.mounts.at(input.stagingPath, options);
  if (staged?.majorMinor !== device.majorMinor) {
    const there = staged && `device ${staged.majorMinor} is mounted there and the volume is ${device.majorMinor} now`;
    throw notStaged(input, there ?? "no mount");
  }
  const record = noted ?? recordAnew(parts, input, { device, staged });
  if (!noted) await noteAnew(parts, record);
  const { targetPath, readOnly } = input;
  await ensureFolder(targetPath);
  const { readOnlyTarget, ...others } = record;
  const begun = readOnlyTarget === targetPath;
  const notes = readOnly && (begun || !await parts.mounts.at(targetPath, options));
  // Without the note a mount that is still writable after a crash would look like one that was asked for so.
  if (notes) await parts.records.write({ ...others, readOnlyTarget: targetPath });
  await parts.mounts.bind(staged, targetPath, { readOnly, begun, signal: options.signal });
  if (notes) await parts.records.write(others);
}

/** It is a hint: what can be published without it is. */
async function noteAnew(parts: StagingParts, record: StagingRecord): Promise<void> {
  await parts.records.write(record).catch((error) => {
    log.warn("a staged volume without a record cannot be noted", { volumeId: record.volumeId, error });
  });
}

async function publishBlock(
  parts: StagingParts,
  input: PublishInput,
  { device, record: noted }: Present,
  options: Cancellable,
) {
  const { targetPath } = input;
  const record = noted ?? recordAnew(parts, input, { device });
  const targets = record.targets ?? [];
  // Noted before it is made: a node that nobody knows of would not keep the volume from being unstaged.
  if (!targets.includes(targetPath)) {
    await parts.records.write({ ...record, kind: "block", targets: [...targets, targetPath] });
  }
  await ensureDeviceNode(targetPath, device.majorMinor, {
    commands: parts.commands,
    deadline: parts.deadlines.command,
    mounts: await parts.mounts.all(options),
    signal: options.signal,
  });
}

async function requireNoOther(
  parts: StagingParts,
  input: PublishInput,
  { device, record }: Present,
  options: Cancellable,
) {
  const own = [await resolved(input.targetPath), await resolved(input.stagingPath)];
  // Of a pod that has the volume the kubelet also mounts folders elsewhere (subPath): those are no further pod's.
  const mounts = mountsOf(await parts.mounts.all(options), device.majorMinor)
    .filter((mount) => mount.root === "/").map((mount) => mount.target);
  const nodes = await publishedNodes(record);
  const other = [...mounts, ...nodes].find((target) => !own.includes(target) && target !== input.targetPath);
  if (other === undefined) return;
  throw new FailedPrecondition(
    `volume ${input.volumeId} is for one pod at a time (ReadWriteOncePod) and is published at ${other}: end that pod first`,
  );
}

/**
 * Reverses publish (CSI 1.13 §NodeUnpublishVolume): unmounts what of the volume is at the target, however often it is
 * mounted there, and removes the empty folder or the node. Nothing there is fine; anything else there is left alone.
 * @throws {FailedPrecondition} when what is there is another volume's, or nothing that a driver makes
 * @throws {Unreachable} when it is the last mount of a filesystem whose session is not live, and may be needed: unmounting
 * it would hang
 */
export async function unpublish(
  parts: StagingParts,
  input: { volumeId: string; targetPath: string },
  options: Cancellable = {},
): Promise<void> {
  requireVolumeId(input.volumeId);
  const { targetPath } = input;
  let traces = await tracesOf(parts, input.volumeId, options);
  const wasBound = await unmountBoundDevice(parts, traces, { path: targetPath, ...options });
  if (!wasBound) {
    if (await wouldHang(parts, traces, { path: targetPath, ...options })) {
      await letGo(parts, input.volumeId, { leaving: targetPath, ...options });
      traces = await tracesOf(parts, input.volumeId, options);
    }
    await parts.mounts.unmount(targetPath, traces.isOurs, options);
  }
  const info = await infoOf(targetPath);
  if (info?.isDirectory) await removeEmptyFolder(targetPath);
  else if (info) await removeNode(parts, traces, { path: targetPath, info, wasBound, ...options });
  await forget(parts, traces.record, targetPath);
}

/** Only when the last mount of a filesystem goes, what is not written yet is written to its device. */
async function wouldHang(
  parts: StagingParts,
  traces: Traces,
  { path, signal }: { path: string } & Cancellable,
): Promise<boolean> {
  const target = await resolved(path);
  const mounts = (await parts.mounts.all({ signal })).filter(traces.isOurs);
  for (const { majorMinor } of mounts.filter((mount) => mount.target === target)) {
    if (mounts.some((mount) => mount.majorMinor === majorMinor && mount.target !== target)) continue;
    const session = traces.sessions.find(({ namespaces }) => namespaces.flatMap(numbersOf).includes(majorMinor));
    if (session && !session.live) return true; // Where the session is gone, I/O fails at once.
  }
  return false;
}

async function removeNode(
  parts: StagingParts,
  { owns, record, volumeId }: Traces,
  { path, info, wasBound, signal }: { path: string; info: Deno.FileInfo; wasBound: boolean } & Cancellable,
): Promise<void> {
  const noted = record?.targets?.includes(path) === true;
  const number = blockNumberOf(info);
  if (number === undefined) {
    // The empty file that a driver bind-mounts a device over.
    const isPlace = noted || wasBound || await isBlockTarget(parts, path);
    if (isPlace && info.isFile && info.size === 0) return await Deno.remove(path);
    throw new FailedPrecondition(
      `${path} is neither a device node nor a folder that volume ${volumeId} is known to have there: it is left alone; ` +
        "look what it is, and remove it if no pod needs it",
    );
  }
  const owner = noted || owns(number) ? undefined : await parts.sysfs.ownerOf(number, { signal });
  if (owner === undefined) return await removeDeviceNode(path, number);
  throw new FailedPrecondition(
    `${path} is a node of device ${number}, which is ${owner} and not volume ${volumeId}: it is left alone. Unpublish the ` +
      "volume that it belongs to",
  );
}

/** Whether the kubelet has block volumes published at a path, and nothing else. */
async function isBlockTarget(parts: StagingParts, path: string): Promise<boolean> {
  const [folder, target] = [await kubeletFolderOf(parts), await resolved(path)];
  if (folder === undefined || target === undefined) return false;
  return target.startsWith(`${folder}/plugins/kubernetes.io/csi/volumeDevices/`) && podOf(folder, target) !== undefined;
}

async function forget(parts: StagingParts, record: StagingRecord | undefined, target: string): Promise<void> {
  if (!record) return;
  const { readOnlyTarget, ...others } = record;
  if (readOnlyTarget !== target && !record.targets?.includes(target)) return;
  await parts.records.write({
    ...others,
    ...(record.targets ? { targets: record.targets.filter((each) => each !== target) } : {}),
    ...(readOnlyTarget === undefined || readOnlyTarget === target ? {} : { readOnlyTarget }),
  });
}
