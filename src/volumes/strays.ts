import type { Inventory } from "../rds/inventory.ts";
import { volumeIdIn } from "./path.ts";

/** A file in a volume's place that no disk has. */
export interface StrayFile {
  /** Of the volume that it would be. */
  id: string;
  /** On RouterOS, without leading slash. */
  file: string;
  /** Bytes; undefined where RouterOS shows none. */
  size: bigint | undefined;
}

/** The files in volumes' places that no disk has, whoever owns it. */
export function strayFiles({ disks, files }: Inventory, bases: readonly string[]): StrayFile[] {
  const used = new Set(disks.map((disk) => disk.file));
  return files.flatMap(({ name, size }) => {
    const id = used.has(name) ? undefined : volumeIdIn(name, bases);
    return id === undefined ? [] : [{ id, file: name, size }];
  });
}
