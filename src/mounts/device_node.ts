import type { Commands } from "../runtime/command.ts";
import { abortable, Deadline } from "../runtime/deadline.ts";
import { blockNumberOf } from "../runtime/device_number.ts";
import { AlreadyExists, FailedPrecondition, messageOf } from "../runtime/errors.ts";
import { infoOf, type Mount, mountAround } from "./mountinfo.ts";

/** The device that a node stands for; `undefined` when nothing, or anything else, is there. Opens nothing. */
export async function deviceNodeAt(path: string): Promise<string | undefined> {
  const info = await infoOf(path);
  return info && blockNumberOf(info);
}

/**
 * Makes sure that `path` is a node of the device and can be opened. A node of its own instead of a bind mount of the
 * host's: two thousand of those have killed nodes.
 * @throws {AlreadyExists} when something else is there, also a node of another device
 * @throws {FailedPrecondition} when it cannot be opened, with `nodev` named if that is why
 */
export async function ensureDeviceNode(
  path: string,
  majorMinor: string,
  options: { commands: Commands; deadline: number; mounts: readonly Mount[]; signal?: AbortSignal | undefined },
): Promise<void> {
  const info = await infoOf(path);
  const present = info && blockNumberOf(info);
  if (info && present !== majorMinor) {
    throw new AlreadyExists(
      `${path} exists and is ${present ? `a node of another device (${present})` : "no device node"}, not of ` +
        `${majorMinor}: it is left alone. Unpublish the volume there, or remove it if no pod uses it`,
    );
  }
  using deadline = new Deadline(options.deadline, `the device node ${path}`, options.signal);
  if (!info) {
    const args = ["-m", "0660", path, "b", ...majorMinor.split(":")];
    const { code, stderr } = await options.commands.run("mknod", args, options);
    if (code !== 0) {
      throw new FailedPrecondition(
        `the device node ${path} cannot be made: ${stderr.trim()}. Whoever publishes makes the folder above it, and the ` +
          "driver needs CAP_MKNOD",
      );
    }
  }
  try {
    const opening = Deno.open(path, { read: true });
    opening.then((file) => file.close()).catch(() => {});
    await abortable(opening, deadline.signal);
  } catch (error) {
    if (deadline.signal.aborted) throw error;
    throw new FailedPrecondition(`${path} cannot be opened: ${whyNot(path, options.mounts, error)}`, { cause: error });
  }
}

function whyNot(path: string, mounts: readonly Mount[], error: unknown): string {
  const around = mountAround(mounts, path);
  if (!around?.options.includes("nodev")) return `${messageOf(error)}. Look at the NVMe session and at dmesg`;
  return `${around.target} is mounted with 'nodev', so no device works in it. Mount the kubelet's folder without 'nodev'`;
}

/**
 * Removes a device node of a number that the caller has found to be its own. Nothing there is fine.
 * @throws {FailedPrecondition} when it is anything else
 */
export async function removeDeviceNode(path: string, majorMinor: string): Promise<void> {
  const info = await infoOf(path);
  if (!info) return;
  if (blockNumberOf(info) !== majorMinor) {
    throw new FailedPrecondition(`${path} is no node of device ${majorMinor}: it is left alone; look what it is`);
  }
  await Deno.remove(path);
}
