import { deviceNodeAt, ensureDeviceNode, removeDeviceNode } from "../mounts/device_node.ts";
import { mountsOf, resolved } from "../mounts/mountinfo.ts";
import { ensureFolder, removeEmptyFolder } from "../mounts/mount.ts";
import type { Device } from "../nvme/session.ts";
import { FailedPrecondition } from "../runtime/errors.ts";
import type { StagingParts } from "./parts.ts";
import { tracesOf } from "./uses.ts";
import { atPromisedSize, type Cancellable, nqnFor, requireVolumeId, type VolumeInput } from "./volume.ts";

export interface PublishInput extends VolumeInput {
  targetPath: string;
  /** No second target may have the volume (access mode SINGLE_NODE_SINGLE_WRITER). */
  exclusive: boolean;
}

/**
 * Shows a staged volume at a target path (CSI 1.13 §NodePublishVolume): a bind mount of the staging path, or a device
 * node. A no-op when the right one is there.
 * @throws {AlreadyExists} when another device is there
 */
export async function publish(parts: StagingParts, input: PublishInput, options: Cancellable = {}): Promise<void> {
  const nqn = nqnFor(input, parts.prefix);
  const device = await atPromisedSize(parts, input, await parts.sessions.device(nqn), options);
  if (input.exclusive) await requireNoOther(parts, input, device, options);
  if (input.capability.kind === "block") await publishBlock(parts, input, device, options);
  else await publishFilesystem(parts, input, device, options);
}

async function publishFilesystem(parts: StagingParts, input: PublishInput, device: Device, options: Cancellable) {
  const staged = await parts.mounts.at(input.stagingPath, options);
  if (staged?.majorMinor !== device.majorMinor) {
    throw new FailedPrecondition(
      `volume ${input.volumeId} is not staged at ${input.stagingPath}: ` +
        (staged
          ? `device ${staged.majorMinor} is mounted there and the volume is ${device.majorMinor} now`
          : "no mount") +
        ". Delete the volume's pods on this node, so that it is unstaged and staged again",
    );
  }
  await ensureFolder(input.targetPath);
  await parts.mounts.bind(staged, input.targetPath, { readOnly: input.readOnly, signal: options.signal });
}

async function publishBlock(parts: StagingParts, input: PublishInput, device: Device, options: Cancellable) {
  const { volumeId, stagingPath } = input;
  const { nqn, name, majorMinor } = device;
  const known = await parts.records.read(volumeId);
  const record = known ?? { volumeId, nqn, kind: "block" as const, device: name, majorMinor, stagingPath };
  const targets = record.targets ?? [];
  // Noted before it is made: a node that nobody knows of would not keep the volume from being unstaged.
  if (!targets.includes(input.targetPath)) {
    await parts.records.write({ ...record, targets: [...targets, input.targetPath] });
  }
  await ensureDeviceNode(input.targetPath, majorMinor, {
    commands: parts.commands,
    deadline: parts.deadlines.command,
    mounts: await parts.mounts.all(options),
    signal: options.signal,
  });
}

async function requireNoOther(parts: StagingParts, input: PublishInput, device: Device, options: Cancellable) {
  const own = [await resolved(input.targetPath), await resolved(input.stagingPath)];
  const mounts = mountsOf(await parts.mounts.all(options), device.majorMinor).map((mount) => mount.target);
  const nodes: string[] = [];
  for (const target of (await parts.records.read(input.volumeId))?.targets ?? []) {
    if (await deviceNodeAt(target)) nodes.push(target);
  }
  const other = [...mounts, ...nodes].find((target) => !own.includes(target) && target !== input.targetPath);
  if (other === undefined) return;
  throw new FailedPrecondition(
    `volume ${input.volumeId} is for one pod at a time (ReadWriteOncePod) and is published at ${other}: end that pod first`,
  );
}

/**
 * Reverses publish (CSI 1.13 §NodeUnpublishVolume): unmounts what of the volume is at the target and removes the empty
 * folder or the node. Nothing there is fine; anything else there is left alone.
 */
export async function unpublish(
  parts: StagingParts,
  input: { volumeId: string; targetPath: string },
  options: Cancellable = {},
): Promise<void> {
  requireVolumeId(input.volumeId);
  const { isOurs, record } = await tracesOf(parts, input.volumeId);
  await parts.mounts.unmount(input.targetPath, isOurs, options);
  const info = await Deno.lstat(input.targetPath).catch((error) => {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  });
  if (info?.isDirectory) await removeEmptyFolder(input.targetPath);
  else if (info) await removeDeviceNode(input.targetPath);
  if (!record?.targets?.includes(input.targetPath)) return;
  await parts.records.write({ ...record, targets: record.targets.filter((target) => target !== input.targetPath) });
}
