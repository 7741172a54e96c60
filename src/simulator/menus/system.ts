import type { Row } from "../values.ts";
import { type Command, singleCommands, tableCommands } from "./menu.ts";

/** `/system/resource`. */
export function resourceMenu(version: string): Record<string, Command> {
  const started = Date.now();
  return singleCommands((): Row => ({
    "uptime": `${Math.floor((Date.now() - started) / 1000)}s`,
    version,
    "board-name": "RDS2216",
    "platform": "MikroTik",
    "architecture-name": "arm64",
  }));
}

/** `/system/package`. */
export function packageMenu(version: string, packages: readonly string[], width: number): Record<string, Command> {
  const rows = packages.map((name, at): Row => ({
    ".id": `*${at + 1}`,
    name,
    version: version.split(" ")[0],
    disabled: false,
  }));
  const properties = [".id", "name", "version", "disabled"];
  const lookUp = (item: string) => rows.find((row) => row[".id"] === item || row["name"] === item);
  return tableCommands({ properties, rows: () => rows, lookUp, brief: properties, width });
}
