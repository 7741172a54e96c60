import { RouterOsError } from "./errors.ts";

/** A row of `/disk`, as the driver sees it. */
export interface Disk {
  slot: string;
  /** `file` for what can be a volume; RouterOS has others: raid, partition … */
  type: string;
  /** Without a leading slash: `/disk` shows one, `/file` does not. */
  file: string;
  /** Bytes; undefined where RouterOS shows none, or nothing that can be read. */
  size: bigint | undefined;
  nqn: string;
  port: number;
  exported: boolean;
  /** RouterOS itself mounts the file system inside: never while a node uses it. */
  mountFilesystem: boolean;
  comment: string;
}

/** A row of `/file`. */
export interface StoredFile {
  /** Without leading slash. */
  name: string;
  /** Bytes; undefined where RouterOS shows none, or nothing that can be read. */
  size: bigint | undefined;
}

/** The pool as its own row and its file disks tell. Bytes. */
export interface Pool {
  size: bigint;
  free: bigint;
  /** What all file disks on it may grow to. */
  promised: bigint;
}

type Row = Record<string, unknown>;

/** The rows of an answer: `[]` or nothing when there are none. @throws {RouterOsError} for anything else */
export function decodeRows(text: string): Row[] {
  if (text.trim() === "") return [];
  let rows: unknown;
  try {
    rows = JSON.parse(text);
  } catch (error) {
    throw new RouterOsError(`RouterOS answered something that is not JSON: '${text.slice(0, 200)}'`, { cause: error });
  }
  const isRow = (row: unknown): row is Row => typeof row === "object" && row !== null && !Array.isArray(row);
  if (Array.isArray(rows) && rows.every(isRow)) return rows;
  throw new RouterOsError(`RouterOS answered JSON that is no list of rows: '${text.slice(0, 200)}'`);
}

/** The rows as disks. */
export function decodeDisks(text: string): Disk[] {
  return decodeRows(text).map(decodeDisk);
}

function decodeDisk(row: Row): Disk {
  return {
    slot: textOf(row, "slot"),
    type: textOf(row, "type"),
    file: textOf(row, "file-path").replace(/^\//, ""),
    size: bytesIn(textOf(row, "size")),
    nqn: textOf(row, "nvme-tcp-server-nqn"),
    port: Number(row["nvme-tcp-server-port"] ?? 0),
    exported: truthOf(row, "nvme-tcp-export"),
    mountFilesystem: truthOf(row, "mount-filesystem"),
    comment: textOf(row, "comment"),
  };
}

/** The rows as files; folders are left out. @throws {RouterOsError} for a row without a name */
export function decodeFiles(text: string): StoredFile[] {
  return decodeRows(text).filter((row) => row["type"] !== "directory").map((row) => {
    const name = textOf(row, "name").replace(/^\//, "");
    if (name !== "") return { name, size: bytesIn(textOf(row, "size")) };
    throw new RouterOsError(`RouterOS shows a file without a name: '${JSON.stringify(row).slice(0, 200)}'`);
  });
}

/** The pool mounted at `mountPoint`, from rows that hold it and all file disks on it; undefined without such a row. */
export function decodePool(text: string, mountPoint: string): Pool | undefined {
  const rows = decodeRows(text);
  const pool = rows.find((row) => row["type"] !== "file" && row["mount-point"] === mountPoint);
  if (!pool) return undefined;
  const promised = rows.filter((row) => row["type"] === "file")
    .reduce((sum, row) => sum + (row["size"] === undefined ? 0n : bytesOf(row, "size")), 0n);
  return { size: bytesOf(pool, "size"), free: bytesOf(pool, "free"), promised };
}

function textOf(row: Row, name: string): string {
  const value = row[name];
  return typeof value === "string" ? value : value === undefined || value === null ? "" : String(value);
}

function truthOf(row: Row, name: string): boolean {
  const value = row[name];
  return value === true || value === "yes" || value === "true";
}

/** Bytes: a JSON number (perhaps `2048.000000`), or digits in a string (perhaps with blanks in between). */
function bytesIn(text: string): bigint | undefined {
  const digits = text.replaceAll(" ", "").replace(/\.0+$/, "");
  return /^\d+$/.test(digits) ? BigInt(digits) : undefined;
}

function bytesOf(row: Row, name: string): bigint {
  const bytes = bytesIn(textOf(row, name));
  if (bytes !== undefined) return bytes;
  throw new RouterOsError(`RouterOS shows '${textOf(row, name)}' as ${name} of '${textOf(row, "slot")}': not bytes`);
}
