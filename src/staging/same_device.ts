import { type Device, isNodeOf } from "../nvme/session.ts";
import { abortable, Deadline } from "../runtime/deadline.ts";
import { blockNumberOf } from "../runtime/device_number.ts";
import { Unreachable } from "../runtime/errors.ts";
import type { StagingParts } from "./parts.ts";
import type { Cancellable } from "./volume.ts";

/** Milliseconds that closing a device may keep the caller waiting. */
const patience = 1000;

/** @throws {Unreachable} when the device, or its device node, changed between two looks: nothing is written then */
export async function requireSame(parts: StagingParts, device: Device, options: Cancellable): Promise<void> {
  const now = await parts.sessions.device(device.nqn, options);
  const same = now.majorMinor === device.majorMinor && now.size === device.size && now.nsid === device.nsid &&
    now.path === device.path;
  if (!same || !await isNodeOf(now)) throw changed(device);
}

/**
 * Proves that a device is the same as before and does `work` with it while it is held open. Then no other device gets its
 * name and number meanwhile, even if the kernel gives the session up: a program that is told the name opens no other volume.
 * @throws {Unreachable} when the device, or its device node, changed: nothing was done
 */
export async function pinned<T>(
  parts: StagingParts,
  device: Device,
  work: () => Promise<T>,
  options: Cancellable,
): Promise<T> {
  const file = await opened(parts, device, options);
  try {
    if (blockNumberOf(await file.stat()) !== device.majorMinor) throw changed(device);
    await requireSame(parts, device, options);
    const done = await work();
    file.close();
    return done;
  } catch (error) {
    await closedWhenWritten(file, device);
    throw error;
  }
}

async function opened(parts: StagingParts, device: Device, { signal }: Cancellable): Promise<Deno.FsFile> {
  using deadline = new Deadline(parts.deadlines.command, `opening ${device.path}`, signal);
  const opening = Deno.open(device.path, { read: true });
  try {
    return await abortable(opening, deadline.signal);
  } catch (error) {
    opening.then((late) => late.close()).catch(() => {});
    if (deadline.signal.aborted) throw error;
    throw changed(device, error);
  }
}

/**
 * Whoever closes a device last waits until all that is written to it has arrived (kernel: block/bdev.c, blkdev_put()), and
 * closing stops this whole process. A program that was cut off leaves much to be written, perhaps to a session that hangs:
 * so that is waited for beside the process first.
 */
async function closedWhenWritten(file: Deno.FsFile, { path }: Device): Promise<void> {
  using deadline = new Deadline(patience, `what is to be written to ${path}`);
  const closed = file.sync().catch(() => {}).then(() => file.close());
  await abortable(closed, deadline.signal).catch(() => {});
}

function changed({ nqn }: Device, cause?: unknown): Unreachable {
  return new Unreachable(`the device of ${nqn} changed while it was looked at: nothing was written; try again`, {
    cause,
  });
}
