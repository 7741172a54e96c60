import { join } from "node:path";
import { type Pool, STATE_FOLDER } from "./pool.ts";
import { RowFiles } from "./row_files.ts";
import { ConsoleError } from "./syntax.ts";

/** A subvolume of a btrfs pool: a folder with files. */
export interface Subvolume {
  id: number;
  label: string;
  name: string;
  parent: string;
  uuid: string;
  created: string;
  readOnly: boolean;
}

/** Subvolumes and snapshots. A snapshot copies its parent's files; it is not the moment's work that it is on btrfs. */
export class Subvolumes {
  readonly #pool: Pool;
  readonly #mountPoint: string;
  readonly #label: string | undefined;
  readonly #used: () => Iterable<string>;
  readonly #files: RowFiles<Subvolume>;
  readonly #rows = new Map<number, Subvolume>();
  #lastId = 0;

  /** @param options.label of the pool's file system; undefined when that has no subvolumes
   * @param options.used names of files that disks use */
  constructor(
    options: {
      pool: Pool;
      poolFolder: string;
      mountPoint: string;
      label: string | undefined;
      used: () => Iterable<string>;
    },
  ) {
    this.#pool = options.pool;
    this.#mountPoint = options.mountPoint;
    this.#label = options.label;
    this.#used = options.used;
    this.#files = new RowFiles(join(options.poolFolder, STATE_FOLDER, "subvolumes"));
    for (const row of this.#files.read()) this.#rows.set(this.#lastId = row.id, row);
  }

  [Symbol.iterator](): Iterator<Subvolume> {
    return this.#rows.values();
  }

  async add(asked: Pick<Subvolume, "label" | "name" | "parent" | "readOnly">): Promise<Subvolume> {
    const { label, name, parent } = asked;
    if (label === "" || label !== this.#label) throw new ConsoleError("input does not match any value of fs");
    if (!/^[A-Za-z0-9._-]+$/.test(name)) throw new ConsoleError("invalid value for argument name");
    const named = (wanted: string) => [...this.#rows.values()].find((row) => row.name === wanted);
    if (named(name) || this.#pool.find(this.#folder(name))) throw new ConsoleError("failure: already have such name");
    if (parent !== "" && !named(parent)) throw new ConsoleError("input does not match any value of parent");
    const row = { ...asked, id: ++this.#lastId, uuid: crypto.randomUUID(), created: new Date().toISOString() };
    this.#rows.set(row.id, row);
    await this.#pool.makeFolder(this.#folder(name), parent === "" ? undefined : this.#folder(parent));
    this.#files.write(row);
    return row;
  }

  remove(id: number): void {
    const row = this.#rows.get(id);
    if (!row) throw new ConsoleError("no such item");
    const folder = this.#folder(row.name);
    if ([...this.#used()].some((file) => file.startsWith(`${folder}/`))) throw new ConsoleError("failure: in use");
    this.#pool.removeFolder(folder);
    this.#rows.delete(id);
    this.#files.remove(row);
  }

  #folder(name: string): string {
    return `${this.#mountPoint}/${name}`;
  }
}
