import { mountsOf, resolved } from "../mounts/mountinfo.ts";
import type { StagingParts } from "./parts.ts";
import { type Cancellable, deviceOfVolume } from "./volume.ts";

/**
 * Grows what this node has of a volume (CSI 1.13 §NodeExpandVolume): asks the server for the size, waits for it, and
 * grows a mounted filesystem to it. Nothing to do is fine: an earlier call may have done all of it.
 * @param input.requiredBytes 0: whatever the server says
 * @returns the device's size in bytes
 * @throws {NotFound} when the volume is not on this node
 * @throws {Unreachable} when the device does not become as large as required
 */
export async function expand(
  parts: StagingParts,
  input: { volumeId: string; volumePath: string; requiredBytes: number },
  options: Cancellable = {},
): Promise<number> {
  const before = await deviceOfVolume(parts, input.volumeId);
  const device = input.requiredBytes > 0 && before.size >= input.requiredBytes
    ? before
    : await parts.sessions.rescan(before.nqn, input.requiredBytes, options);
  const mounts = mountsOf(await parts.mounts.all(options), device.majorMinor).filter((mount) => mount.root === "/");
  const path = await resolved(input.volumePath);
  // The path itself may be published read-only; growing needs a mount that can be written to.
  const writable = mounts.filter((mount) => !mount.options.includes("ro"));
  const mount = writable.find(({ target }) => target === path) ?? writable[0];
  if (mount) await parts.filesystems(options.signal).grow(mount.fsType, device, mount.target);
  return device.size;
}
