import { deviceNodeAt } from "../mounts/device_node.ts";
import { infoOf, mountsOf, resolved } from "../mounts/mountinfo.ts";
import type { Device } from "../nvme/session.ts";
import { FailedPrecondition, NotFound } from "../runtime/errors.ts";
import type { StagingParts } from "./parts.ts";
import { tracesOf } from "./uses.ts";
import { type Cancellable, deviceOfVolume } from "./volume.ts";

interface ExpandInput {
  volumeId: string;
  volumePath: string;
  /** 0: whatever the server says. */
  requiredBytes: number;
}

/**
 * Grows what this node has of a volume (CSI 1.13 §NodeExpandVolume): asks the server for the size, waits for it, and
 * grows a mounted filesystem to it. Nothing to do is fine: an earlier call may have done all of it.
 * @returns the device's size in bytes
 * @throws {NotFound} when the volume is not on this node, or not at the path
 * @throws {FailedPrecondition} when what is at the path is another device, or can only be read
 * @throws {Unreachable} when the device does not become as large as required
 */
export async function expand(parts: StagingParts, input: ExpandInput, options: Cancellable = {}): Promise<number> {
  const before = await deviceOfVolume(parts, input.volumeId, options);
  const isMounted = await requireAt(parts, input, before, options);
  const device = input.requiredBytes > 0 && before.size >= input.requiredBytes
    ? before
    : await parts.sessions.rescan(before.nqn, input.requiredBytes, options);
  // What the user of a block volume makes of it, and mounts, is the user's own affair.
  if (!isMounted) return device.size;
  const mounts = mountsOf(await parts.mounts.all(options), device.majorMinor).filter((mount) => mount.root === "/");
  const path = await resolved(input.volumePath);
  // The path itself may be published read-only; growing needs a mount that can be written to.
  const writable = mounts.filter((mount) => !mount.options.includes("ro"));
  const mount = writable.find(({ target }) => target === path) ?? writable[0];
  if (!mount) {
    throw new FailedPrecondition(
      `the filesystem of volume ${input.volumeId} is mounted read-only on this node, so it does not grow: use the volume ` +
        "once with an access mode that can write",
    );
  }
  await parts.filesystems(options.signal).grow(mount.fsType, device, mount.target);
  return device.size;
}

/** Makes sure that the path shows the device, and says whether it is mounted there. */
async function requireAt(
  parts: StagingParts,
  { volumeId, volumePath }: ExpandInput,
  device: Device,
  options: Cancellable,
): Promise<boolean> {
  const mount = await parts.mounts.at(volumePath, options);
  const number = mount?.majorMinor ?? await deviceNodeAt(volumePath);
  if (number === device.majorMinor) return mount !== undefined;
  if (number !== undefined) {
    throw new FailedPrecondition(
      `${volumePath} shows device ${number} and volume ${volumeId} is ${device.majorMinor} now: its session was replaced ` +
        "while it was in use. Delete the volume's pods on this node, so that it is unstaged and staged again",
    );
  }
  // Of a block volume nothing grows but the device, whichever path of it is named.
  const { record } = await tracesOf(parts, volumeId, options);
  if (record?.kind === "block" && await infoOf(volumePath)) return false;
  throw new NotFound(
    `volume ${volumeId} is not at '${volumePath}' on this node: neither a mount nor a device node is there`,
  );
}
