import { join } from "node:path";
import type { Exporter } from "./exporter.ts";
import type { Guesses } from "./options.ts";
import { type Pool, STATE_FOLDER } from "./pool.ts";
import { RowFiles } from "./row_files.ts";
import { ConsoleError } from "./syntax.ts";
import { describeDisk } from "./disk_properties.ts";
import type { Row } from "./values.ts";

/** What is kept of a disk. */
export interface DiskRow {
  id: number;
  type: string;
  slot: string;
  comment: string;
  /** Of `type=file`: without leading slash. */
  file?: string;
  /** Bytes. */
  size: number;
  mountFilesystem: boolean;
  mountReadOnly: boolean;
  exported: boolean;
  port: number;
  nqn: string;
  allowHost: string;
  /** When the export was turned on (milliseconds since 1970), and how large the disk was then. */
  exportedAt: number;
  exportedSize: number;
  /** Properties of a row of another type, shown as they are. */
  other?: Record<string, string | number | boolean>;
}

/** What may be given or changed of a disk. */
export type DiskChange = Partial<Omit<DiskRow, "id" | "type" | "exportedAt" | "exportedSize">>;

/** Guesses with all their defaults. */
export type Decided = Required<Guesses>;

/** The rows of `/disk` and what follows from them: files, exports, the kept state. */
export class Disks {
  readonly #pool: Pool;
  readonly #exporter: Exporter;
  readonly #guesses: Decided;
  readonly #files: RowFiles<DiskRow>;
  readonly #rows = new Map<number, DiskRow>();
  readonly #properties = new Map<number, Row>();
  readonly #shown = new Set<string>();
  #exporting = false;
  #lastId = 0;

  constructor(options: { pool: Pool; poolFolder: string; exporter: Exporter; guesses: Decided }) {
    this.#pool = options.pool;
    this.#exporter = options.exporter;
    this.#guesses = options.guesses;
    this.#files = new RowFiles(join(options.poolFolder, STATE_FOLDER, "disks"));
    for (const row of this.#files.read()) this.#rows.set(this.#lastId = row.id, row);
  }

  [Symbol.iterator](): Iterator<DiskRow> {
    return this.#rows.values();
  }

  /** NQNs that hosts can reach, in the order in which they came. */
  get exports(): string[] {
    return [...this.#shown];
  }

  get(id: number): DiskRow | undefined {
    return this.#rows.get(id);
  }

  /** The properties as `print` shows them. */
  propertiesOf(row: DiskRow): Row {
    let known = this.#properties.get(row.id);
    if (!known) this.#properties.set(row.id, known = describeDisk(row, this.#pool, this.#guesses));
    return known;
  }

  /** Adds a disk with its file: the file is made with the size given, or taken as it is. Answers its row. */
  add(change: DiskChange & { slot: string }, other?: Pick<DiskRow, "type" | "other">): DiskRow {
    const row: DiskRow = {
      ...blank,
      nqn: `nqn.2000-02.com.mikrotik:${change.slot}`,
      ...change,
      ...other,
      id: this.#lastId + 1,
    };
    this.#check(row);
    if (row.type === "file") row.size = this.#makeFile(row, change.size);
    this.#lastId = row.id;
    this.#keep({ ...row, ...(row.exported ? exportedNow(row) : {}) });
    return row;
  }

  /** Puts other properties on the row of another type that has the slot, or adds such a row. */
  plant(slot: string, { type, ...other }: Record<string, string | number | boolean>): void {
    const there = [...this.#rows.values()].find((row) => row.slot === slot);
    if (there) this.#keep({ ...there, other });
    else this.add({ slot }, { type: String(type), other });
  }

  /** Changes a disk; a new size is that of its file too, also a smaller one. */
  set(row: DiskRow, change: DiskChange): void {
    let changed: DiskRow = { ...row, ...change };
    this.#check(changed);
    if (row.exported && changed.exported && changed.nqn !== row.nqn && !this.#guesses.renamesExports) {
      throw new ConsoleError("failure: can not do that");
    }
    if (change.size !== undefined) {
      if (row.file === undefined) throw new ConsoleError("invalid value for argument file-size");
      if (change.size > row.size) this.#pool.demand(change.size, row.size);
      this.#pool.resize(row.file, change.size);
    }
    const isAnew = changed.exported && (!row.exported || changed.nqn !== row.nqn);
    if (isAnew) changed = { ...changed, ...exportedNow(changed) };
    if (row.exported && (!changed.exported || changed.nqn !== row.nqn)) this.#hide(row.nqn);
    this.#keep(changed);
  }

  /** Removes the row. Its file stays. */
  remove(row: DiskRow): void {
    if (row.type !== "file") throw new ConsoleError("failure: could not unmount, stop using it first");
    if (row.exported) this.#hide(row.nqn);
    this.#rows.delete(row.id);
    this.#properties.delete(row.id);
    this.#files.remove(row);
  }

  /** Turns all exports on or off at once: start, reboot, end. Then every connection is a new one, and sees all. */
  export(on: boolean): void {
    this.#exporting = on;
    for (const row of this.#rows.values()) {
      if (!row.exported) continue;
      if (on) this.#keep({ ...row, ...exportedNow(row) });
      else this.#hide(row.nqn);
    }
  }

  /** No export will be turned on any more. */
  close(): void {
    this.export(false);
    this.#exporter.close?.();
  }

  /** Lets hosts find the ports of exports that are to come. */
  openPorts(): void {
    for (const { exported, port } of this.#rows.values()) if (exported) this.#exporter.open?.(port);
  }

  #keep(row: DiskRow): void {
    this.#rows.set(row.id, row);
    this.#properties.delete(row.id);
    this.#files.write(row);
    this.#show(row);
  }

  #show(row: DiskRow): void {
    if (!row.exported || row.file === undefined || !this.#exporting) return;
    const { nqn, port, size, exportedAt } = row;
    const connectedSize = this.#guesses.growth === "now" ? size : row.exportedSize;
    this.#shown.add(nqn);
    this.#exporter.show({
      nqn,
      port,
      size,
      connectedSize,
      generationTime: exportedAt,
      file: this.#pool.pathOf(row.file),
    });
  }

  #hide(nqn: string): void {
    this.#shown.delete(nqn);
    this.#exporter.hide(nqn);
  }

  #check(row: DiskRow): void {
    const { uniqueSlots, uniqueFiles, uniqueNqns, longestSlot } = this.#guesses;
    if (row.slot === "" || row.slot.length > longestSlot) throw new ConsoleError("invalid value for argument slot");
    for (const one of this.#rows.values()) {
      if (one.id === row.id) continue;
      if (uniqueSlots && one.slot === row.slot) throw new ConsoleError("failure: already have such slot");
      if (row.type !== "file" || one.type !== "file") continue;
      if (uniqueFiles && one.file === row.file) throw new ConsoleError("failure: already have such file-path");
      if (uniqueNqns && one.nqn === row.nqn) throw new ConsoleError("failure: already have such nvme-tcp-server-nqn");
    }
  }

  #makeFile({ file = "" }: DiskRow, size: number | undefined): number {
    this.#pool.pathOf(file);
    const there = this.#pool.find(file);
    if (there && size === undefined) return there.size;
    if (there && !this.#guesses.sizeOnExistingFile) throw new ConsoleError("failure: file already exists");
    if (size === undefined) throw new ConsoleError("failure: no such file");
    this.#pool.demand(size);
    this.#pool.resize(file, size, this.#guesses.makesFolders);
    return size;
  }
}

const blank = {
  type: "file",
  comment: "",
  size: 0,
  mountFilesystem: true,
  mountReadOnly: false,
  exported: false,
  port: 4420,
  allowHost: "",
  exportedAt: 0,
  exportedSize: 0,
};

function exportedNow(row: DiskRow): Pick<DiskRow, "exportedAt" | "exportedSize"> {
  return { exportedAt: Date.now(), exportedSize: row.size };
}
