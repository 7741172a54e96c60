import { decodeDisks, decodePool, type Disk, type Pool } from "../rds/decode.ts";
import { atPath, print } from "../rds/disk_scripts.ts";
import { escapeRegExp, join, ros, type Script } from "../rds/script.ts";
import { Deadline, pause } from "../runtime/deadline.ts";
import { FailedPrecondition, messageOf, Unreachable } from "../runtime/errors.ts";
import { poolOf } from "../volumes/path.ts";
import type { ProbeConsole, Said } from "./probe_console.ts";

/** Under a prefix of their own: the driver takes them for nobody's volumes. */
export const nqnPrefix = "nqn.2000-02.com.mikrotik:rds-csi-probe-";

/** A disk of the probe's to add. */
export interface Wish {
  /** Appended to the scratch's name; by default nothing: the main disk's slot. */
  slot?: string;
  /** A whole slot instead. */
  wholeSlot?: string;
  /** On RouterOS, without leading slash. */
  file: string;
  /** Bytes; left out, an existing file is taken as it is. */
  size?: bigint;
  /** Export it under this NQN. */
  nqn?: string;
}

/**
 * One small disk on RouterOS, and whatever else the probe makes beside it, all of it with names that nobody else has: each
 * holds digits that were just drawn. Every script that changes a row proves first that the row has this probe's comment, too.
 */
export class Scratch {
  /** Slot of the main disk, and the beginning of all other names. At most 22 characters. */
  readonly name: string;
  /** The 28 digits by which its exports are named. */
  readonly digits: string;
  readonly size: bigint;
  /** Of its exports. */
  readonly port: number;
  /** The main disk's file. */
  file = "";
  /** Whether making the main disk took its size from the pool at once. */
  preallocated = false;
  readonly #console: ProbeConsole;
  readonly #base: string;
  readonly #comment: string;
  readonly #late: number;
  readonly #cleaning: number;
  #added = 0;
  /** Until when something that was sent, and given up, may still take effect: milliseconds of the clock. */
  #pending = 0;

  /**
   * @param options.late milliseconds after which a change whose answer was lost has no effect any more
   * @param options.cleaning milliseconds that removing everything may take
   */
  constructor(
    console: ProbeConsole,
    options: { base: string; size: bigint; port?: number; late: number; cleaning: number },
  ) {
    this.digits = crypto.randomUUID().replaceAll("-", "").slice(0, 28);
    this.name = `rds-csi-probe-${this.digits.slice(0, 8)}`;
    this.size = options.size;
    this.port = options.port ?? 4420;
    this.#late = options.late;
    this.#cleaning = options.cleaning;
    this.#base = options.base;
    this.#console = console;
    this.#comment = `rds-csi probe ${crypto.randomUUID()}`;
  }

  get console(): ProbeConsole {
    return this.#console;
  }
  get pool(): string {
    return poolOf(this.#base);
  }

  /** The places for the main disk's file: in a folder that is not there, in the driver's own, on the pool itself. */
  get places(): [string, string, string] {
    const { name } = this;
    return [`${this.#base}/${name}/main.img`, `${this.#base}/${name}.img`, `${this.pool}/${name}.img`];
  }

  /** Another file beside the main disk's. */
  beside(what: string): string {
    return this.file.replace(/(\/main)?\.img$/, (_, inside) => inside ? `/${what}.img` : `-${what}.img`);
  }

  async run(script: Script, signal: AbortSignal): Promise<Said> {
    try {
      return await this.#console.run(script, signal);
    } catch (error) {
      this.expect(this.#late);
      throw error;
    }
  }

  /** As {@linkcode run}. @throws {FailedPrecondition} when RouterOS did not do it */
  async must(script: Script, signal: AbortSignal): Promise<string> {
    const { done, text } = await this.run(script, signal);
    if (done) return text;
    throw new FailedPrecondition(`RouterOS said: ${text.replaceAll(/\s*\r?\n\s*/g, " | ")}`);
  }

  /** What adds a disk. */
  adding({ slot = "", wholeSlot = this.name + slot, file, size, nqn }: Wish): Script {
    const sized = size === undefined ? ros`` : ros` file-size=${size}`;
    // By default it follows from the slot, which may be another's.
    const own = `${nqnPrefix}${this.digits}.x${++this.#added}`;
    const shown = nqn === undefined
      ? ros` nvme-tcp-export=no nvme-tcp-server-nqn=${own}`
      : ros` nvme-tcp-export=yes nvme-tcp-server-port=${this.port} nvme-tcp-server-nqn=${nqn}`;
    const place = ros`type=file file-path=${"/" + file}${sized} slot=${wholeSlot}`;
    return ros`/disk/add ${place} mount-filesystem=no comment=${this.#comment}${shown}`;
  }

  async add(wish: Wish, signal: AbortSignal): Promise<Said> {
    return await this.run(this.adding(wish), signal);
  }

  /** The rows of this probe with that slot, or all of them. */
  ours(slot?: string): Script {
    const comment = ros`type=file and comment=${this.#comment}`;
    return slot === undefined ? comment : ros`${comment} and slot=${slot}`;
  }

  /** Changes the main disk. */
  set(change: Script, signal: AbortSignal): Promise<Said> {
    return this.run(ros`/disk/set [/disk/find where ${this.ours(this.name)}] ${change}`, signal);
  }

  async rows(where: Script, signal: AbortSignal): Promise<Disk[]> {
    return decodeDisks(await this.must(print(where), signal));
  }

  /** The main disk. @throws {Unreachable} when it is not there */
  async main(signal: AbortSignal): Promise<Disk> {
    const [row] = await this.rows(this.ours(this.name), signal);
    if (row) return row;
    throw new Unreachable("the scratch disk is not there any more");
  }

  async isFile(file: string, signal: AbortSignal): Promise<boolean> {
    return (await this.must(ros`:put [:len [/file/find where name=${file}]]`, signal)).trim() !== "0";
  }

  async poolNow(signal: AbortSignal): Promise<Pool> {
    const pool = decodePool(await this.must(print(ros`mount-point=${this.pool}`), signal), this.pool);
    if (pool) return pool;
    throw new FailedPrecondition(
      `RouterOS shows no disk mounted at '${this.pool}': name the pool with --rds-volume-base-path`,
    );
  }

  /** Makes sure that nobody has any of the names. @throws {FailedPrecondition} */
  async requireFree(signal: AbortSignal): Promise<void> {
    const slots = ros`[:len [/disk/find where slot~${`^${this.name}`}]]`;
    const text = await this.must(ros`:put (${slots} + [:len [/file/find where name~${this.#files()}]])`, signal);
    if (text.trim() !== "0") throw new FailedPrecondition(`something on RouterOS is called ${this.name}: try again`);
  }

  /** Something was sent whose end was not waited for: removing goes on until it must be over. */
  expect(milliseconds: number): void {
    this.#pending = Math.max(this.#pending, Date.now() + milliseconds);
  }

  /** Its effect was seen. */
  settled(): void {
    this.#pending = 0;
  }

  /** Takes away all but the main disk, and its export, after a question. */
  async tidy(signal: AbortSignal): Promise<void> {
    const main = ros`(slot=${this.name} and ${atPath(this.file)})`;
    await this.must(this.#removal(ros`${this.ours()} and !${main}`, ros`name!=${this.file}`), signal);
    await this.must(ros`/disk/set [/disk/find where ${this.ours(this.name)}] nvme-tcp-export=no`, signal);
  }

  /**
   * Takes everything away and proves it. Runs whatever happened before, on a time of its own.
   * @throws {Unreachable} when something is left, with how to remove it by hand
   */
  async remove(): Promise<void> {
    using deadline = new Deadline(this.#cleaning, "RouterOS (removing the scratch disk)");
    const { signal } = deadline;
    for (let wait = 0;; wait = Math.min(wait + 500, 5000)) {
      try {
        if (wait > 0) await pause(wait, signal);
        const isOver = Date.now() > this.#pending;
        await this.run(this.#removal(this.ours(), undefined), signal);
        if (await this.#left(signal) === 0 && isOver) return;
      } catch (error) {
        if (signal.aborted) throw this.#notRemoved(error);
      }
    }
  }

  /** Exports off, rows away, then the files that no row has any more, then the folder when it is empty. */
  #removal(rows: Script, files: Script | undefined): Script {
    const found = ros`[/disk/find where ${rows}]`;
    const named = ros`name~${this.#files()}`;
    const steps = [
      ros`/disk/set ${found} nvme-tcp-export=no`,
      ros`/disk/remove ${found}`,
      ros`/file/remove [/file/find where ${files ? join([named, files], " and ") : named} and type!="directory"]`,
    ];
    if (!files) steps.push(ros`/file/remove [/file/find where name=${`${this.#base}/${this.name}`}]`);
    return join(steps, ";");
  }

  /** A regular expression for all names that the probe's files may have. */
  #files(): string {
    const folders = [...new Set([this.#base, this.pool])].map(escapeRegExp).join("|");
    return `^/?(${folders})/${this.name}(/[a-z0-9-]+)?(-[a-z0-9-]+)?(\\.img)?$`;
  }

  async #left(signal: AbortSignal): Promise<number> {
    const rows = ros`[:len [/disk/find where ${this.ours()}]]`;
    const files = ros`[:len [/file/find where name~${this.#files()}]]`;
    return Number((await this.must(ros`:put (${rows} + ${files})`, signal)).trim());
  }

  #notRemoved(cause: unknown): Unreachable {
    return new Unreachable(
      `the scratch disk could not be removed (${messageOf(cause)}): look on RouterOS for '/disk print where ` +
        `slot~"${this.name}"' and '/file print where name~"${this.name}"', and remove what is there`,
      { cause },
    );
  }
}
