/** What the scripts about disks are made of, and how the answers to them are read. @module */
import { decodeDisks, type Disk } from "./decode.ts";
import { RouterOsError } from "./errors.ts";
import { escapeRegExp, join, ros, type Script } from "./script.ts";

/** What a row must be to be ours: every changing script proves it inside RouterOS before it changes anything. */
export interface Target {
  slot: string;
  /** One and the same for all names of the volume: what is unanswered is noted under it. */
  key: string;
  /** The only paths that its file may have, without leading slash. */
  files: readonly string[];
  /** Its NQN in generation 0; a row in any later generation is the same volume. */
  nqn: string;
}

/** A disk to make. */
export interface NewDisk {
  target: Target;
  /** Without leading slash; one of the target's files. */
  file: string;
  /** Bytes. */
  size: bigint;
  port: number;
  comment: string;
  /** A slot that an older driver would have used for the same volume. */
  otherSlot?: string | undefined;
}

/** What is there after a change: rows that have the name, file or NQN, and which of the target's files exist. */
export interface Found {
  disks: Disk[];
  files: number;
}

/** Adds the disk, exported. */
export function add({ file, size, target, port, comment }: NewDisk): Script {
  const place = ros`type=file file-path=${"/" + file} file-size=${size} slot=${target.slot} mount-filesystem=no`;
  const shown = ros`nvme-tcp-export=yes nvme-tcp-server-port=${port} nvme-tcp-server-nqn=${target.nqn}`;
  return ros`/disk/add ${place} ${shown} comment=${comment}`;
}

/**
 * Takes the export of the target's disk away under the NQN `from` and gives it back under `to`, unless that is not what
 * is there. Where it breaks off behind its first step, nobody reaches the disk.
 */
export function fence(target: Target, { from, to }: { from: string; to: string }): Script {
  const at = (nqn: string) => ros`[/disk/find where ${ours(target)} and nvme-tcp-server-nqn=${nqn}]`;
  const steps = [
    ros`/disk/set ${at(from)} nvme-tcp-export=no`,
    ros`/disk/set ${at(from)} nvme-tcp-server-nqn=${to}`,
    ros`/disk/set ${at(to)} nvme-tcp-export=yes`,
  ];
  return ros`:if ([:len ${at(from)}] = 1) do={${join(steps, ";")}}`;
}

/** Shows the rows as JSON on one line (or none). */
export function print(where: Script): Script {
  return ros`:put [:serialize to=json value=[/disk/print detail as-value where ${where}] options=json.no-string-conversion]`;
}

/** Shows the rows on one line (or none), then the number of files that exist. */
export function look(where: Script, files: readonly string[]): Script {
  const named = files.length === 0 ? undefined : join(files.map((file) => ros`name=${file}`), " or ");
  return ros`${print(where)}; :put ${named ? ros`[:len [/file/find where ${named}]]` : 0}`;
}

/** What {@linkcode look} put out. @throws {RouterOsError} for anything else */
export function decodeFound(text: string): Found {
  const lines = text.split("\n");
  const last = lines.pop() ?? "";
  if (!/^\d+$/.test(last)) {
    throw new RouterOsError(`RouterOS answered '${text.slice(0, 200)}' where a count should end`);
  }
  return { disks: decodeDisks(lines.join("\n")), files: Number(last) };
}

/** A condition: the row is the target, in any generation. */
export function ours(target: Target): Script {
  const files = join(target.files.map(atPath), " or ");
  return ros`slot=${target.slot} and type=file and (${files}) and ${withNqn(target.nqn)}`;
}

/** Every row that has anything of the volume. */
export function anyOf(target: Target): Script {
  return join([ros`slot=${target.slot}`, ...target.files.map(atPath), withNqn(target.nqn)], " or ");
}

/** The same file has a leading slash in `/disk` on some versions and none on others. */
export function atPath(file: string): Script {
  return ros`(file-path=${"/" + file} or file-path=${file})`;
}

/** The NQN in any of its generations (`.g1`, `.g2` … after fences). */
export function withNqn(nqn: string): Script {
  return ros`nvme-tcp-server-nqn~${`^${escapeRegExp(nqn)}(\\.g[0-9]+)?$`}`;
}
