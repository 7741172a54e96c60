import { isVolumeId } from "../nvme/nqn.ts";
import { InvalidArgument } from "../runtime/errors.ts";

/** Characters of a base path: room is left for the file's name in a script. */
const LONGEST = 200;

/**
 * A base path on RouterOS in the form of `/file`, without leading slash: `storage-pool/metal-csi`.
 * @throws {InvalidArgument} unless it is absolute and its parts are plain names (no `.`, no `..`, nothing empty)
 */
export function basePath(path: string): string {
  const parts = path.replace(/\/$/, "").split("/");
  const plain = (part: string) => /^[A-Za-z0-9._-]+$/.test(part) && part !== "." && part !== "..";
  const fits = path.length <= LONGEST;
  if (parts.shift() === "" && parts.length > 0 && parts.every(plain) && fits) return parts.join("/");
  throw new InvalidArgument(
    `'${path}' is no base path: write it like /storage-pool/metal-csi, absolute, with letters, digits, '.', '_' and '-', and ` +
      `${LONGEST} characters at most`,
  );
}

/** The mount point of the pool that a base path lies on: its first part. */
export function poolOf(base: string): string {
  return base.split("/", 1)[0] as string;
}

/** The file of a volume in the layout `file`: `<base>/<id>.img`. */
export function volumeFile(base: string, volumeId: string): string {
  return `${base}/${volumeId}.img`;
}

/** The volume whose file this would be, under one of the bases; undefined for every other file. */
export function volumeIdIn(file: string, bases: readonly string[]): string | undefined {
  const id = file.slice(file.lastIndexOf("/") + 1).replace(/\.img$/, "");
  return isVolumeId(id) && bases.some((base) => file === volumeFile(base, id)) ? id : undefined;
}
