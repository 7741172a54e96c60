import { deviceNodeAt } from "../mounts/device_node.ts";
import type { Mount } from "../mounts/mountinfo.ts";
import { FailedPrecondition } from "../runtime/errors.ts";
import type { StagingParts } from "./parts.ts";
import type { Traces } from "./uses.ts";
import type { Cancellable } from "./volume.ts";

/** The kernel writes `//deleted` after what is not there any more (fs/proc_namespace.c, show_mountinfo()). */
const deletedMark = "//deleted";

function isBoundDevice({ fsType, root }: Mount): boolean {
  return fsType === "devtmpfs" && /^\/nvme\d+n\d+(\/\/deleted)?$/.test(root);
}

/**
 * Takes away what the Go driver rds-csi made of a block volume at a target: a bind mount of the host's device node. The
 * empty file below it stays.
 * @returns whether there was one
 * @throws {FailedPrecondition} when it is a device of today that is not the volume's: it is left alone
 */
export async function unmountBoundDevice(
  parts: StagingParts,
  traces: Traces,
  { path, signal }: { path: string } & Cancellable,
): Promise<boolean> {
  const mount = await parts.mounts.at(path, { signal });
  if (!mount || !isBoundDevice(mount)) return false;
  if (!mount.root.endsWith(deletedMark)) await requireOwn(parts, traces, { path, signal });
  await parts.mounts.unmount(path, (each) => isBoundDevice(each) && each.root === mount.root, { signal });
  return true;
}

async function requireOwn(
  parts: StagingParts,
  { owns, volumeId }: Traces,
  { path, signal }: { path: string } & Cancellable,
): Promise<void> {
  const number = await deviceNodeAt(path);
  if (number !== undefined && owns(number)) return;
  const owner = number === undefined ? "nothing known" : await parts.sysfs.ownerOf(number, { signal });
  if (owner === undefined) return;
  throw new FailedPrecondition(
    `${path} is a bind mount of device ${
      number ?? "(none)"
    }, which is ${owner} and not volume ${volumeId}: it is left ` +
      `alone. Look what it is ('findmnt ${path}'), and unmount it by hand if no pod needs it`,
  );
}
