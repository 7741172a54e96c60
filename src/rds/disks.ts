import { NotFound } from "../runtime/errors.ts";
import { AnswerLost, type Connection } from "./connection.ts";
import { decodeDisks, decodePool, type Disk, type Pool } from "./decode.ts";
import { RouterOsError } from "./errors.ts";
import { escapeRegExp, join, ros, type Script } from "./script.ts";
import { Settling } from "./settling.ts";
import { MergedReads } from "./merged_reads.ts";

/** What a row must be to be ours: every changing script proves it inside RouterOS before it changes anything. */
export interface Target {
  slot: string;
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

/** Milliseconds for each kind of command. */
export interface DiskDeadlines {
  read: number;
  create: number;
  remove: number;
  resize: number;
}

/**
 * RouterOS' disks with `type=file`, one round trip a call. Changes are conditional inside RouterOS, so that no lock
 * outside of it is needed for safety; after a change whose answer was lost, the next one of the same volume waits until
 * its effect is seen or its longest time has passed.
 */
export class Disks {
  readonly #connection: Pick<Connection, "run">;
  readonly #deadlines: DiskDeadlines;
  readonly #settling: Settling<Found>;
  readonly #reads: MergedReads<Disk>;

  constructor(connection: Pick<Connection, "run">, deadlines: DiskDeadlines, now: () => number = Date.now) {
    this.#connection = connection;
    this.#deadlines = deadlines;
    this.#settling = new Settling(now);
    this.#reads = new MergedReads((slots) => this.#readSlots(slots), (disk) => disk.slot);
  }

  /** The disk in that slot, whoever owns it; undefined only when RouterOS said that there is none. */
  get(slot: string, signal?: AbortSignal): Promise<Disk | undefined> {
    return this.#reads.get(slot, signal);
  }

  /** All file disks whose NQN starts with `nqnPrefix`. */
  async list(nqnPrefix: string, signal?: AbortSignal): Promise<Disk[]> {
    const where = ros`type=file and nvme-tcp-server-nqn~${"^" + escapeRegExp(nqnPrefix)}`;
    return decodeDisks(await this.#read("list", "list the volumes", () => print(where), signal));
  }

  /** The pool mounted at `mountPoint`. @throws {NotFound} when RouterOS shows none */
  async pool(mountPoint: string, signal?: AbortSignal): Promise<Pool> {
    const files = ros`(type=file and file-path~${`^/?${escapeRegExp(mountPoint)}/`})`;
    const where = ros`mount-point=${mountPoint} or ${files}`;
    const text = await this.#read("pool", `read the pool ${mountPoint}`, () => print(where), signal);
    const pool = decodePool(text, mountPoint);
    if (pool) return pool;
    throw new NotFound(
      `RouterOS shows no disk mounted at '${mountPoint}': the first part of --rds-volume-base-path must be the ` +
        "mount point of the pool ('/disk print')",
    );
  }

  /** Adds the disk unless anything of it (slot, file, NQN) is there already; shows what is there afterwards. */
  create(disk: NewDisk, signal?: AbortSignal): Promise<Found> {
    const { target } = disk;
    const slots = [target.slot, ...(disk.otherSlot ? [disk.otherSlot] : [])];
    const taken = join(
      [...slots.map((slot) => ros`slot=${slot}`), atPath(disk.file), withNqn(target.nqn)],
      " or ",
    );
    const add = ros`/disk/add type=file file-path=${
      "/" + disk.file
    } file-size=${disk.size} slot=${target.slot} mount-filesystem=no`;
    const options =
      ros`nvme-tcp-export=yes nvme-tcp-server-port=${disk.port} nvme-tcp-server-nqn=${target.nqn} comment=${disk.comment}`;
    const count = ros`([:len [/disk/find where ${taken}]] + [:len [/file/find where name=${disk.file}]])`;
    return this.#change({
      kind: "create",
      doing: `create the volume ${target.slot}`,
      target,
      deadline: this.#deadlines.create,
      script: ros`:if (${count} = 0) do={${add} ${options}}; ${look(taken, target.files)}`,
      seen: (found) => found.disks.length > 0,
      signal,
    });
  }

  /** Ends the export, removes the row if it is ours, and the file once no row has it. Shows what is left. */
  remove(target: Target, signal?: AbortSignal): Promise<Found> {
    const mine = ours(target);
    const files = target.files.map((file) =>
      ros`:if ([:len [/disk/find where slot=${target.slot} or ${
        atPath(file)
      }]] = 0) do={/file/remove [/file/find where name=${file}]}`
    );
    const row =
      ros`:if ([:len [/disk/find where ${mine}]] = 1) do={/disk/set [/disk/find where ${mine}] nvme-tcp-export=no; /disk/remove [/disk/find where ${mine}]}`;
    return this.#change({
      kind: "remove",
      doing: `delete the volume ${target.slot}`,
      target,
      deadline: this.#deadlines.remove,
      script: join([row, ...files, look(ros`slot=${target.slot}`, target.files)], ";"),
      seen: (found) => found.disks.length === 0 && found.files === 0,
      signal,
    });
  }

  /** Grows the disk if it is ours and smaller than `size` bytes: the comparison is RouterOS' own. */
  resize(target: Target, size: bigint, signal?: AbortSignal): Promise<Found> {
    const smaller = join([ours(target), ros`size<${size}`], " and ");
    return this.#change({
      kind: "resize",
      doing: `grow the volume ${target.slot} to ${size} bytes`,
      target,
      deadline: this.#deadlines.resize,
      script: ros`/disk/set [/disk/find where ${smaller}] file-size=${size}; ${look(ros`slot=${target.slot}`, [])}`,
      seen: (found) => found.disks.every((disk) => disk.size >= size),
      signal,
    });
  }

  /** Keeps RouterOS from mounting the file system inside the volume. Only for a volume that nobody holds. */
  unmountFilesystem(target: Target, signal?: AbortSignal): Promise<Found> {
    return this.#change({
      kind: "unmount",
      doing: `set mount-filesystem=no on the volume ${target.slot}`,
      target,
      deadline: this.#deadlines.resize,
      script: ros`/disk/set [/disk/find where ${ours(target)}] mount-filesystem=no; ${
        look(ros`slot=${target.slot}`, [])
      }`,
      seen: (found) => found.disks.every((disk) => !disk.mountFilesystem),
      signal,
    });
  }

  async #change(change: {
    kind: string;
    doing: string;
    target: Target;
    deadline: number;
    script: Script;
    seen: (found: Found) => boolean;
    signal: AbortSignal | undefined;
  }): Promise<Found> {
    const { kind, doing, target, deadline, signal } = change;
    await this.#settling.settle(target.slot, () => this.#lookAgain(target, signal));
    try {
      return decodeFound(await this.#connection.run({ kind, doing, deadline, signal, script: () => change.script }));
    } catch (error) {
      if (!(error instanceof AnswerLost)) throw error;
      this.#settling.expect(target.slot, { doing, longest: 2 * deadline, seen: change.seen });
      throw error.cause;
    }
  }

  async #lookAgain(target: Target, signal: AbortSignal | undefined): Promise<Found> {
    const where = join([ros`slot=${target.slot}`, ...target.files.map(atPath), withNqn(target.nqn)], " or ");
    const doing = `look what became of the volume ${target.slot}`;
    return decodeFound(await this.#read("look", doing, () => look(where, target.files), signal));
  }

  async #readSlots(slots: () => readonly string[]): Promise<Disk[]> {
    const where = () => join(slots().map((slot) => ros`slot=${slot}`), " or ");
    return decodeDisks(await this.#read("get", "read volumes", () => print(where())));
  }

  async #read(kind: string, doing: string, script: () => Script, signal?: AbortSignal): Promise<string> {
    try {
      return await this.#connection.run({ kind, doing, deadline: this.#deadlines.read, signal, script });
    } catch (error) {
      throw error instanceof AnswerLost ? error.cause : error;
    }
  }
}

function print(where: Script): Script {
  return ros`:put [:serialize to=json value=[/disk/print detail as-value where ${where}] options=json.no-string-conversion]`;
}

/** Shows the rows on one line (or none), then the number of files that exist. */
function look(where: Script, files: readonly string[]): Script {
  const named = files.length === 0 ? undefined : join(files.map((file) => ros`name=${file}`), " or ");
  return ros`${print(where)}; :put ${named ? ros`[:len [/file/find where ${named}]]` : 0}`;
}

function decodeFound(text: string): Found {
  const lines = text.split("\n");
  const last = lines.pop() ?? "";
  if (!/^\d+$/.test(last)) {
    throw new RouterOsError(`RouterOS answered '${text.slice(0, 200)}' where a count should end`);
  }
  return { disks: decodeDisks(lines.join("\n")), files: Number(last) };
}

function ours(target: Target): Script {
  const files = join(target.files.map(atPath), " or ");
  return ros`slot=${target.slot} and type=file and (${files}) and ${withNqn(target.nqn)}`;
}

/** The same file has a leading slash in `/disk` on some versions and none on others. */
function atPath(file: string): Script {
  return ros`(file-path=${"/" + file} or file-path=${file})`;
}

/** The NQN in any of its generations (`.g1`, `.g2` … after fences). */
function withNqn(nqn: string): Script {
  return ros`nvme-tcp-server-nqn~${`^${escapeRegExp(nqn)}(\\.g[0-9]+)?$`}`;
}
