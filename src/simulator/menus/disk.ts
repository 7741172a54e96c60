import { diskProperties } from "../disk_properties.ts";
import type { DiskChange, DiskRow, Disks } from "../store.ts";
import { ConsoleError } from "../syntax.ts";
import { showRow } from "../text_output.ts";
import { numberIn, type Row, textOf } from "../values.ts";
import { type Call, type Command, rowsOf, type Table, tableCommands } from "./menu.ts";

const legend = "X - DISABLED, A - ACQUIRED, E - EMPTY; B - BLOCK-DEVICE; M - MOUNTED, F - FORMATTING; S - SWAP; " +
  "f - RAID-MEMBER-FAILED; r - RAID-MEMBER; c - ENCRYPTED; g - GUID-PARTITION-TABLE; p - PARTITION; " +
  "t - NVME-TCP-EXPORT; i - ISCSI-EXPORT; s - SMB-SHARING; n - NFS-SHARING; m - MEDIA-SHARING; L - LOCKED; " +
  "O - SELF-ENCRYPTION; o - SUPPORTED";

/** `/disk`. */
export function diskMenu(disks: Disks, width: number): Record<string, Command> {
  const table: Table = {
    properties: diskProperties,
    *rows() {
      for (const row of disks) yield disks.propertiesOf(row);
    },
    lookUp: (item) => {
      const row = disks.get(idIn(item)) ?? [...disks].find(({ slot }) => slot === item);
      return row && disks.propertiesOf(row);
    },
    flags: { legend, of: flagsOf },
    brief: [".id", "type", "slot", "model", "size", "free", "use", "fs", "mount-point", "nvme-tcp-export"],
    width,
  };
  const kept = (call: Call) => rowsOf(table, call).map((row) => disks.get(idIn(textOf(row[".id"]))) as DiskRow);
  return {
    ...tableCommands(table),
    add: { run: (call) => `*${add(disks, call).id.toString(16).toUpperCase()}` },
    set: {
      run: (call) => {
        const change = changeIn(call);
        for (const row of kept(call)) disks.set(row, change);
        return undefined;
      },
    },
    remove: {
      run: (call) => {
        for (const row of kept(call)) disks.remove(row);
        return undefined;
      },
    },
    "monitor-traffic": { run: (call) => monitorTraffic(rowsOf(table, call), call) },
  };
}

function idIn(text: string): number {
  return /^\*[0-9A-F]+$/.test(text) ? parseInt(text.slice(1), 16) : NaN;
}

function flagsOf(row: Row): string {
  return (row["type"] === "partition" ? "Bp" : "B") + (row["mount-point"] === undefined ? "" : "M") +
    (row["nvme-tcp-export"] === true ? "t" : "");
}

function add(disks: Disks, call: Call): DiskRow {
  const { type, slot, "file-path": path } = call.named;
  if (type !== "file") throw new ConsoleError("input does not match any value of type");
  if (slot === undefined) throw new ConsoleError("missing value(s) of argument(s) slot");
  if (path === undefined) throw new ConsoleError("missing value(s) of argument(s) file-path");
  return disks.add({ ...changeIn(call), slot, file: path.replace(/^\//, "") });
}

function changeIn({ named }: Call): DiskChange {
  const change: DiskChange = {};
  for (const [name, text] of Object.entries(named)) readers[name]?.(change, text);
  return change;
}

const readers: Record<string, (change: DiskChange, text: string) => void> = {
  "slot": (change, text) => change.slot = text,
  "comment": (change, text) => change.comment = text,
  "file-size": (change, text) => change.size = whole("file-size", text, { least: 1, most: Number.MAX_SAFE_INTEGER }),
  "mount-filesystem": (change, text) => change.mountFilesystem = yesOrNo("mount-filesystem", text),
  "mount-read-only": (change, text) => change.mountReadOnly = yesOrNo("mount-read-only", text),
  "nvme-tcp-export": (change, text) => change.exported = yesOrNo("nvme-tcp-export", text),
  "nvme-tcp-server-port": (change, text) =>
    change.port = whole("nvme-tcp-server-port", text, { least: 1, most: 65_535 }),
  "nvme-tcp-server-allow-host-name": (change, text) => change.allowHost = text,
  "nvme-tcp-server-nqn": (change, text) => {
    if (!/^nqn\.[!-~]{1,219}$/.test(text)) throw new ConsoleError("invalid value for argument nvme-tcp-server-nqn");
    change.nqn = text;
  },
};

function yesOrNo(name: string, text: string): boolean {
  if (text === "yes" || text === "true") return true;
  if (text === "no" || text === "false") return false;
  throw new ConsoleError(`invalid value for argument ${name}`);
}

function whole(name: string, text: string, { least, most }: { least: number; most: number }): number {
  const number = numberIn(text);
  if (number === undefined || number < least || number > most) {
    throw new ConsoleError(`invalid value for argument ${name}`);
  }
  return number;
}

function monitorTraffic(rows: readonly Row[], { flags, output }: Call): undefined {
  if (!flags.has("once")) throw new ConsoleError("interrupted");
  for (const { slot } of rows) {
    const rates = { "read-ops-per-second": 0, "read-rate": "0bps", "write-ops-per-second": 0, "write-rate": "0bps" };
    for (const line of showRow({ slot, ...rates, "in-flight-ops": 0 })) output(line);
  }
  return undefined;
}
