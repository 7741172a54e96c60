import { decodeDisks, decodeFiles, type Disk, type StoredFile } from "./decode.ts";
import { print } from "./disk_scripts.ts";
import { RouterOsError } from "./errors.ts";
import { escapeRegExp, join, ros, type Script } from "./script.ts";

/** What lies under some folders on RouterOS. */
export interface Inventory {
  /** Those with `type=file`. */
  disks: Disk[];
  /** Those named like volumes, also the ones that a disk has. */
  files: StoredFile[];
}

/** What the script prints between files and disks. */
const DISKS = "rds-csi-disks";

/** Shows files first, so that a volume that is being made is not seen with its file and without its disk. */
export function inventory(bases: readonly string[]): Script {
  const files = bases.map((base) => ros`name~${`^/?${escapeRegExp(base)}/pvc-[0-9a-f-]+\\.img$`}`);
  const disks = bases.map((base) => ros`file-path~${`^/?${escapeRegExp(base)}/`}`);
  const shown = ros`[/file/print detail as-value where ${join(files, " or ")}]`;
  return ros`:put [:serialize to=json value=${shown} options=json.no-string-conversion]; :put ${DISKS}; ${
    print(ros`type=file and (${join(disks, " or ")})`)
  }`;
}

/** What {@linkcode inventory} put out. @throws {RouterOsError} for anything else */
export function decodeInventory(text: string): Inventory {
  const lines = text.split("\n");
  const at = lines.indexOf(DISKS);
  if (at < 0) throw new RouterOsError(`RouterOS answered '${text.slice(0, 200)}' where files and disks should be`);
  return { files: decodeFiles(lines.slice(0, at).join("\n")), disks: decodeDisks(lines.slice(at + 1).join("\n")) };
}
