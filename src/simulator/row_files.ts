import { join } from "node:path";

/** Rows that survive a restart, also that of the machine they are on: a file each, so that a change costs the same with 10,000 of them. */
export class RowFiles<T extends { id: number }> {
  readonly #folder: string;

  constructor(folder: string) {
    Deno.mkdirSync(folder, { recursive: true });
    this.#folder = folder;
  }

  /** All rows in the order of their ids. */
  read(): T[] {
    return [...Deno.readDirSync(this.#folder)].filter(({ name }) => /^\d+\.json$/.test(name))
      .map(({ name }) => JSON.parse(Deno.readTextFileSync(join(this.#folder, name))) as T)
      .sort((a, b) => a.id - b.id);
  }

  write(row: T): void {
    writeAtomically(this.#pathOf(row), JSON.stringify(row));
    settle(this.#folder);
  }

  remove(row: T): void {
    Deno.removeSync(this.#pathOf(row));
    settle(this.#folder);
  }

  #pathOf(row: T): string {
    return join(this.#folder, `${row.id}.json`);
  }
}

/** Writes a file so that others see the old content or the new one, never a part, also after a power cut. */
export function writeAtomically(path: string, text: string): void {
  Deno.writeTextFileSync(`${path}.new`, text, { mode: 0o600 });
  settle(`${path}.new`);
  Deno.renameSync(`${path}.new`, path);
}

/** Has a file's content, or a folder's names, on the disk. */
function settle(path: string): void {
  using file = Deno.openSync(path);
  file.syncSync();
}
