import { isVolumeId, nqnOf, parseManagedNqn } from "../nvme/nqn.ts";
import type { Disk } from "../rds/decode.ts";
import type { Target } from "../rds/disk_scripts.ts";
import { type AlreadyExists, InvalidArgument } from "../runtime/errors.ts";
import { keyOf } from "./id.ts";
import { volumeFile } from "./path.ts";

/** Where volumes of ours can be. */
export interface Realm {
  /** The managed NQN prefix. */
  prefix: string;
  /** Folders in the form of `/file`. */
  bases: readonly string[];
}

/** What a disk must be to be the volume with that id. @throws {InvalidArgument} for an id that is none of ours */
export function targetOf(id: string, { prefix, bases }: Realm): Target {
  return { slot: id, key: keyOf(id), files: bases.map((base) => volumeFile(base, id)), nqn: nqnOf(prefix, id) };
}

/** Whether a disk is a volume of ours: slot, file and NQN agree. */
export function isOurs(disk: Disk, realm: Realm): boolean {
  if (disk.type !== "file" || !isVolumeId(disk.slot)) return false;
  const named = parseManagedNqn(realm.prefix, disk.nqn);
  return named?.volumeId === disk.slot && targetOf(disk.slot, realm).files.includes(disk.file);
}

/** The error for a disk that is not ours. */
export function foreign(disk: Disk, Kind: typeof InvalidArgument | typeof AlreadyExists = InvalidArgument): Error {
  return new Kind(
    `the disk '${disk.slot}' (file ${disk.file || "none"}, NQN ${
      disk.nqn || "none"
    }) is not a volume of this driver, so ` +
      "it is left alone: its slot, its file under the allowed base paths and its NQN after CSI_MANAGED_NQN_PREFIX must agree",
  );
}
