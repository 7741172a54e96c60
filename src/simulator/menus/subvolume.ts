import type { Subvolumes } from "../subvolumes.ts";
import { ConsoleError } from "../syntax.ts";
import type { Row } from "../values.ts";
import { type Command, rowsOf, type Table, tableCommands } from "./menu.ts";

const properties = [".id", "fs", "name", "fullname", "parent", "uuid", "creation-time", "read-only"];

/** `/disk/btrfs/subvolume`. */
export function subvolumeMenu(subvolumes: Subvolumes, width: number): Record<string, Command> {
  const shown = (): Row[] =>
    [...subvolumes].map(({ id, label, name, parent, uuid, created, readOnly }) => ({
      ".id": `*${id.toString(16).toUpperCase()}`,
      "fs": label,
      name,
      "fullname": name,
      parent,
      uuid,
      "creation-time": created,
      "read-only": readOnly,
    }));
  const lookUp = (item: string) => shown().find((row) => row[".id"] === item || row["name"] === item);
  const table: Table = { properties, rows: shown, lookUp, brief: properties, width };
  return {
    ...tableCommands(table),
    add: {
      run: async ({ named }) => {
        const { fs = "", name = "", parent = "", "read-only": readOnly = "no" } = named;
        if (!/^(yes|no)$/.test(readOnly)) throw new ConsoleError("invalid value for argument read-only");
        const { id } = await subvolumes.add({ label: fs, name, parent, readOnly: readOnly === "yes" });
        return `*${id.toString(16).toUpperCase()}`;
      },
    },
    remove: {
      run: (call) => {
        for (const row of rowsOf(table, call)) subvolumes.remove(parseInt(String(row[".id"]).slice(1), 16));
        return undefined;
      },
    },
  };
}
