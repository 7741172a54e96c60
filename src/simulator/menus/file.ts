import type { Pool, PoolFile } from "../pool.ts";
import type { Disks } from "../store.ts";
import { ConsoleError } from "../syntax.ts";
import { type Row, textOf } from "../values.ts";
import { type Command, rowsOf, type Table, tableCommands } from "./menu.ts";

const properties = [".id", "name", "type", "size", "last-modified"];

/** `/file`: names have no leading slash. */
export function fileMenu(
  { pool, disks }: { pool: Pool; disks: Disks },
  options: { removesUsedFiles: boolean; width: number },
): Record<string, Command> {
  const names = new Map<string, string>();
  const show = (file: PoolFile): Row => {
    const row = rowOf(file);
    names.set(textOf(row[".id"]), file.name);
    return row;
  };
  const table: Table = {
    properties,
    *rows(wanted) {
      // Most scripts ask for one name: with 10,000 files the folder is not read for that.
      const files = wanted ? [...new Set(wanted)].flatMap((name) => pool.find(name) ?? []) : pool.entries();
      for (const file of files) yield show(file);
    },
    lookUp: (item) => {
      const file = item.startsWith("/") ? undefined : pool.find(names.get(item) ?? item);
      return file && show(file);
    },
    brief: properties,
    rounded: new Set(["size"]),
    width: options.width,
  };
  const remove = (row: Row) => {
    const name = textOf(row["name"]);
    const isUsed = [...disks].some((disk) => disk.file === name);
    if (isUsed && !options.removesUsedFiles) throw new ConsoleError("failure: file in use");
    pool.remove(name);
    names.delete(textOf(row[".id"]));
  };
  return {
    ...tableCommands(table),
    remove: { run: (call) => rowsOf(table, call).forEach(remove) as undefined },
  };
}

function rowOf({ name, size, modified, isFolder, inode }: PoolFile): Row {
  const extension = /\.[^./]+$/.exec(name)?.[0] ?? "";
  return {
    ".id": `*${inode.toString(16).toUpperCase()}`,
    name,
    "type": isFolder ? "directory" : `${extension} file`.trim(),
    ...(isFolder ? {} : { size }),
    "last-modified": modified.toISOString().slice(0, 19).replace("T", " "),
  };
}
