import { AlreadyExists, FailedPrecondition, InvalidArgument, messageOf, Unreachable } from "../runtime/errors.ts";
import { AnswerLost, type Connection } from "./connection.ts";
import { decodeDisks, decodePool, type Disk, type Pool } from "./decode.ts";
import {
  add,
  anyOf,
  atPath,
  decodeFound,
  fence,
  type Found,
  look,
  type NewDisk,
  ours,
  print,
  type Target,
  withNqn,
} from "./disk_scripts.ts";
import { isRefusal, RouterOsError } from "./errors.ts";
import { decodeInventory, type Inventory, inventory } from "./inventory.ts";
import { MergedReads } from "./merged_reads.ts";
import { escapeRegExp, join, ros, type Script } from "./script.ts";
import { Settling } from "./settling.ts";

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

  /**
   * The disk in that slot, whoever owns it; undefined only when RouterOS said that there is none.
   * @throws {FailedPrecondition} when two disks have it
   */
  async get(slot: string, signal?: AbortSignal): Promise<Disk | undefined> {
    checkSlot(slot); // Before it joins others: one that is refused must not take theirs along.
    const [disk, second] = await this.#reads.get(slot, signal);
    if (!second) return disk;
    throw new FailedPrecondition(
      `two disks on RouterOS have the slot '${slot}': find out with '/disk print detail' which is the right one, and ` +
        "remove the other row (not its file)",
    );
  }

  /** Returns when nothing that was sent for the volume can still take effect unseen. @throws {Busy} while it can */
  settle(target: Target, signal?: AbortSignal): Promise<void> {
    return this.#settling.settle(target.key, () => this.#look(target, anyOf(target), signal));
  }

  /** All file disks whose NQN starts with `nqnPrefix`. */
  async list(nqnPrefix: string, signal?: AbortSignal): Promise<Disk[]> {
    const where = ros`type=file and nvme-tcp-server-nqn~${"^" + escapeRegExp(nqnPrefix)}`;
    return decodeDisks(await this.#read("list", "list the volumes", () => print(where), signal));
  }

  /** All file disks under those folders, whoever owns them, and the files there that are named like volumes. */
  async inventory(bases: readonly string[], signal?: AbortSignal): Promise<Inventory> {
    return decodeInventory(await this.#read("inventory", "list disks and files", () => inventory(bases), signal));
  }

  /** The pool mounted at `mountPoint`. @throws {FailedPrecondition} when RouterOS shows none */
  async pool(mountPoint: string, signal?: AbortSignal): Promise<Pool> {
    const files = ros`(type=file and file-path~${`^/?${escapeRegExp(mountPoint)}/`})`;
    const where = ros`mount-point=${mountPoint} or ${files}`;
    const text = await this.#read("pool", `read the pool ${mountPoint}`, () => print(where), signal);
    const pool = decodePool(text, mountPoint);
    if (pool) return pool;
    throw new FailedPrecondition(
      `RouterOS shows no disk mounted at '${mountPoint}': the first part of --rds-volume-base-path must be the ` +
        "mount point of the pool ('/disk print')",
    );
  }

  /** Adds the disk unless anything of it (slot, file, NQN) is there already; shows what is there afterwards. */
  async create(disk: NewDisk, signal?: AbortSignal): Promise<Found> {
    const { target } = disk;
    const slots = [target.slot, ...(disk.otherSlot ? [disk.otherSlot] : [])].map((slot) => ros`slot=${slot}`);
    const taken = join([...slots, atPath(disk.file), withNqn(target.nqn)], " or ");
    const count = ros`([:len [/disk/find where ${taken}]] + [:len [/file/find where name=${disk.file}]])`;
    try {
      return await this.#change({
        kind: "create",
        doing: `create the volume ${target.slot}`,
        target,
        deadline: this.#deadlines.create,
        change: ros`:if (${count} = 0) do={${add(disk)}}`,
        look: look(taken, target.files),
        seen: (found) => found.disks.length > 0,
        signal,
      });
    } catch (error) {
      if (!(error instanceof AlreadyExists)) throw error;
      // Somebody was quicker between the count and the add: what is there decides.
      const found = await this.#look(target, taken, signal);
      if (found.disks.length > 0) return found;
      throw new Unreachable(`${error.message}; and yet RouterOS shows no such disk`, { cause: error });
    }
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
      change: join([row, ...files], ";"),
      look: look(join([ros`slot=${target.slot}`, ...target.files.map(atPath)], " or "), target.files),
      seen: (found) => found.disks.length === 0 && found.files === 0,
      signal,
    });
  }

  /**
   * Grows the disk if it is ours and smaller than `size` bytes: the comparison is RouterOS' own, between numbers, and what
   * is no number is not touched.
   */
  resize(target: Target, size: bigint, signal?: AbortSignal): Promise<Found> {
    const mine = ours(target);
    const have = ros`:local have [:tonum [/disk/get [/disk/find where ${mine}] size]]`;
    const isSmaller = ros`([:typeof $have] = "num") and ($have < ${size})`;
    const grow = ros`:if (${isSmaller}) do={/disk/set [/disk/find where ${mine}] file-size=${size}}`;
    return this.#change({
      kind: "resize",
      doing: `grow the volume ${target.slot} to ${size} bytes`,
      target,
      deadline: this.#deadlines.resize,
      change: ros`:if ([:len [/disk/find where ${mine}]] = 1) do={${have}; ${grow}}`,
      look: look(ros`slot=${target.slot}`, []),
      seen: (found) => found.disks.every((disk) => (disk.size ?? 0n) >= size),
      signal,
    });
  }

  /**
   * Cuts off whoever is connected to the disk: export off, `from` becomes `to`, export on. Nothing happens unless the disk
   * is ours and has the NQN `from`. Shows every row that has anything of the volume. After a refusal some of it may have
   * been done, and the rest will not be.
   * @param nqns two generations of the target's NQN
   */
  fence(target: Target, nqns: { from: string; to: string }, signal?: AbortSignal): Promise<Found> {
    return this.#change({
      kind: "fence",
      doing: `cut off who had ${target.slot}`,
      target,
      deadline: this.#deadlines.resize,
      change: fence(target, nqns),
      look: look(anyOf(target), []),
      seen: (found) => found.disks.some((disk) => disk.nqn === nqns.to && disk.exported),
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
      change: ros`/disk/set [/disk/find where ${ours(target)}] mount-filesystem=no`,
      look: look(ros`slot=${target.slot}`, []),
      seen: (found) => found.disks.every((disk) => !disk.mountFilesystem),
      signal,
    });
  }

  /**
   * Changes something and looks at what is there then. Between the two the script says that the change is done, so that a
   * refusal (nothing was done) can be told from everything else. Whatever may have had an effect is {@linkcode Unreachable}
   * or its like, which no caller takes for a final answer, and is noted until it is seen.
   */
  async #change(job: {
    kind: string;
    doing: string;
    target: Target;
    deadline: number;
    change: Script;
    look: Script;
    seen: (found: Found) => boolean;
    signal: AbortSignal | undefined;
  }): Promise<Found> {
    const { kind, doing, target, deadline, signal } = job;
    await this.settle(target, signal);
    const script = ros`${job.change}; :put ${CHANGED}; ${job.look}`;
    try {
      const text = await this.#connection.run({ kind, doing, deadline, signal, script: () => script });
      const [first = "", ...rest] = text.split("\n");
      if (first !== CHANGED) throw new RouterOsError(`RouterOS answered '${text.slice(0, 200)}' when told to ${doing}`);
      return decodeFound(rest.join("\n"));
    } catch (error) {
      const lost = error instanceof AnswerLost;
      const isDone = messageOf(error).includes(CHANGED);
      if (!lost && isRefusal(error) && !isDone) throw error;
      const why = lost ? "" : ` (it said: ${messageOf(error)})`;
      this.#settling.expect(target.key, { doing: doing + why, longest: 2 * deadline, seen: job.seen });
      throw lost ? error.cause : new Unreachable(`${messageOf(error)}; try again`, { cause: error });
    }
  }

  async #look(target: Target, where: Script, signal: AbortSignal | undefined): Promise<Found> {
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

/** What a script prints between its change and its look. */
const CHANGED = "rds-csi-changed";

/** CSI 1.13, "Size Limits": ids have at most 128 bytes. */
const LONGEST_SLOT = 128;

function checkSlot(slot: string): void {
  ros`slot=${slot}`;
  if (slot.length <= LONGEST_SLOT) return;
  throw new InvalidArgument(
    `an id of ${slot.length} characters is over the limit of ${LONGEST_SLOT}: it is no volume's`,
  );
}
