import type { Pool } from "./pool.ts";
import type { Decided, DiskRow } from "./store.ts";
import type { Row } from "./values.ts";

/** All properties that rows of `/disk` may have. */
export const diskProperties: readonly string[] = (
  ".id type slot slot-default parent fs fs-label fs-uuid model size free use mount-point mount-filesystem " +
  "mount-read-only compress sector-size raid-master raid-type state nvme-tcp-export nvme-tcp-server-port " +
  "nvme-tcp-server-nqn nvme-tcp-server-allow-host-name iscsi-export nfs-sharing smb-sharing media-sharing " +
  "media-interface swap file-path file-size file-offset comment disabled"
).split(" ");

/** A disk's properties by RouterOS' names, in the order of `print detail`. */
export function describeDisk(row: DiskRow, pool: Pool, guesses: Decided): Row {
  const { comment, slot } = row;
  const head = {
    ".id": `*${row.id.toString(16).toUpperCase()}`,
    ...(comment ? { comment } : {}),
    type: row.type,
    slot,
  };
  if (row.type !== "file") return withSpace({ ...head, "nvme-tcp-export": row.exported, ...row.other }, pool);
  const path = (guesses.leadingSlash ? "/" : "") + row.file;
  return {
    ...head,
    "slot-default": "",
    "parent": "",
    "fs": "-",
    "model": path,
    "size": row.size,
    "mount-filesystem": row.mountFilesystem,
    "mount-read-only": row.mountReadOnly,
    "compress": false,
    "sector-size": 512,
    "raid-master": "none",
    "nvme-tcp-export": row.exported,
    "nvme-tcp-server-port": row.port,
    "nvme-tcp-server-nqn": row.nqn,
    "nvme-tcp-server-allow-host-name": row.allowHost,
    "iscsi-export": false,
    "nfs-sharing": false,
    "smb-sharing": false,
    "media-sharing": false,
    "media-interface": "none",
    "swap": false,
    "file-path": path,
    "file-size": roundedSize(row.size),
    "file-offset": 0,
  };
}

/** The pool's own row says at any time what is left of it. */
function withSpace(row: Row, pool: Pool): Row {
  if (row["free"] !== "pool") return row;
  const shown = { ...row };
  Object.defineProperty(shown, "free", { enumerable: true, get: () => pool.free });
  Object.defineProperty(shown, "use", {
    enumerable: true,
    get: () => `${Math.round(100 * (pool.size - pool.free) / pool.size)}%`,
  });
  return shown;
}

/** Bytes as RouterOS shows them to people: one decimal, and a unit that is only left when there are more than 1024. */
export function roundedSize(bytes: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let [value, unit] = [bytes, 0];
  while (value > 1024 && unit < units.length - 1) {
    value /= 1024;
    unit++;
  }
  return unit === 0 ? String(bytes) : `${value.toFixed(1)}${units[unit]}`;
}
