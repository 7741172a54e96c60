import { dirname } from "node:path";
import { abortable, Deadline } from "../runtime/deadline.ts";
import { FailedPrecondition, messageOf, TimedOut, Unreachable } from "../runtime/errors.ts";

/** One line of mountinfo (proc_pid_mountinfo(5)). */
export interface Mount {
  majorMinor: string;
  /** What of the filesystem is mounted: `/` unless it is a bind mount of a folder. */
  root: string;
  target: string;
  /** Options of this mount (`ro`, `nosuid` …). */
  options: string[];
  fsType: string;
  source: string;
  /** Options of the filesystem itself, whichever mount it is seen through. */
  superOptions: string[];
}

/** As many mounts of one device refuse the next: thousands have eaten up the memory of nodes. */
const storm = 100;

function unescape(field: string): string {
  return field.replaceAll(/\\([0-7]{3})/g, (_, digits: string) => String.fromCharCode(parseInt(digits, 8)));
}

function parseLine(line: string): Mount {
  const fields = line.split(" ");
  const end = fields.indexOf("-", 6);
  const [, , majorMinor, root, target, options] = fields;
  const [fsType, source, superOptions] = fields.slice(end + 1);
  if (end < 0 || fields.length !== end + 4 || !/^\d+:\d+$/.test(majorMinor ?? "") || !root || !target) {
    throw new Unreachable(`this line of mountinfo cannot be read: '${line}'. Nothing is done on a guess: report it`);
  }
  return {
    majorMinor: majorMinor ?? "",
    root: unescape(root),
    target: unescape(target),
    options: (options ?? "").split(","),
    fsType: fsType ?? "",
    source: unescape(source ?? ""),
    superOptions: (superOptions ?? "").split(","),
  };
}

/**
 * Reads the text of a mountinfo file.
 * @throws {Unreachable} at a line of another form: a mount that is not understood is not an absent one
 */
export function parseMountinfo(text: string): Mount[] {
  return text.split("\n").filter((line) => line !== "").map(parseLine);
}

/** Mounts of a device, bind mounts included. */
export function mountsOf(mounts: readonly Mount[], majorMinor: string): Mount[] {
  return mounts.filter((mount) => mount.majorMinor === majorMinor);
}

/** What is seen at a path: of several mounts over one another the last. The path as {@linkcode resolved} gives it. */
export function mountAt(mounts: readonly Mount[], path: string): Mount | undefined {
  return mounts.findLast((mount) => mount.target === path);
}

/** The mount that a path lies in. */
export function mountAround(mounts: readonly Mount[], path: string): Mount | undefined {
  const around = mounts.filter(({ target }) => target === "/" || path === target || path.startsWith(`${target}/`));
  return around.reduce<Mount | undefined>((best, mount) => {
    return best && best.target.length > mount.target.length ? best : mount;
  }, undefined);
}

/** @throws {FailedPrecondition} when the device has a hundred mounts already */
export function refuseStorm(mounts: readonly Mount[], majorMinor: string): void {
  const all = mountsOf(mounts, majorMinor);
  if (all.length < storm) return;
  const targets = all.slice(0, 3).map((mount) => mount.target).join(", ");
  throw new FailedPrecondition(
    `device ${majorMinor} has ${all.length} mounts already (${targets} …) and the limit is ${storm}: something mounts it ` +
      "again and again. Unmount what no pod needs ('findmnt -o TARGET,MAJ:MIN'), then try again",
  );
}

/**
 * A path as mountinfo has it: its folder resolved, its last part as it is, which may be a mount whose device hangs.
 * `undefined` when the folder does not exist, so that nothing can be there.
 */
export async function resolved(path: string): Promise<string | undefined> {
  const plain = path.replace(/\/+$/, "");
  try {
    return `${await Deno.realPath(dirname(plain))}/${plain.slice(plain.lastIndexOf("/") + 1)}`.replace("//", "/");
  } catch (error) {
    if (isNothing(error)) return undefined;
    throw error;
  }
}

/** Whether an error says that nothing is at a path: neither it nor, perhaps, its folder, or a file where that should be. */
export function isNothing(error: unknown): boolean {
  return error instanceof Deno.errors.NotFound || error instanceof Deno.errors.NotADirectory;
}

/** What is at a path, itself, not what a link there points to; `undefined` when nothing is. Opens nothing. */
export async function infoOf(path: string): Promise<Deno.FileInfo | undefined> {
  try {
    return await Deno.lstat(path);
  } catch (error) {
    if (isNothing(error)) return undefined;
    throw error;
  }
}

/** The host's table of mounts, and that of the driver's own mount namespace, read anew at every question. */
export class MountTable {
  readonly #procRoot: string;
  readonly #limit: number;
  #hanging = 0;

  /** @param limit milliseconds that reading may take */
  constructor(options: { procRoot: string; limit: number }) {
    this.#procRoot = options.procRoot;
    this.#limit = options.limit;
  }

  /**
   * The host's mounts.
   * @throws {Unreachable} when it cannot be read in time: nothing is known of the mounts then
   */
  read(options: { signal?: AbortSignal | undefined } = {}): Promise<Mount[]> {
    return this.#table("1", options);
  }

  /**
   * The host's mounts, and those that the driver's own mount namespace alone has: in a container the host may have
   * unmounted what is still mounted here.
   * @throws {Unreachable} as {@linkcode read} does
   */
  async readAll(options: { signal?: AbortSignal | undefined } = {}): Promise<Mount[]> {
    const host = await this.read(options);
    const known = new Set(host.map(placeOf));
    return [...host, ...(await this.#table("self", options)).filter((mount) => !known.has(placeOf(mount)))];
  }

  async #table(process: "1" | "self", options: { signal?: AbortSignal | undefined }): Promise<Mount[]> {
    const path = `${this.#procRoot}/${process}/mountinfo`;
    // A read cannot be called back. One that hangs holds a thread: no second one is sent after it.
    if (this.#hanging > 0) throw unreadable(path, "an earlier read of it still hangs");
    using deadline = new Deadline(this.#limit, path, options.signal);
    const reading = Deno.readTextFile(path);
    try {
      return parseMountinfo(await abortable(reading, deadline.signal));
    } catch (error) {
      if (error instanceof Unreachable || options.signal?.aborted) throw error;
      if (error instanceof TimedOut) this.#count(reading);
      throw unreadable(path, messageOf(error), error);
    }
  }

  #count(reading: Promise<unknown>): void {
    this.#hanging++;
    reading.catch(() => {}).finally(() => this.#hanging--);
  }
}

function placeOf({ majorMinor, root, target }: Mount): string {
  return JSON.stringify([majorMinor, root, target]);
}

function unreadable(path: string, why: string, cause?: unknown): Unreachable {
  return new Unreachable(
    `the mounts of this node cannot be read from ${path}: ${why}. Nothing is mounted or unmounted without them; ` +
      "look at the node's load and whether the host's /proc is mounted there (--proc-root)",
    { cause },
  );
}
