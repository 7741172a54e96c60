import { Buffer } from "node:buffer";
import { dirname, join } from "node:path";
import { messageOf } from "../runtime/errors.ts";
import { ConsoleError } from "./syntax.ts";

/** A file of the pool. */
export interface PoolFile {
  /** As `/file` names it: without leading slash, the pool's mount point in front. */
  name: string;
  /** Bytes, as `stat` tells. */
  size: number;
  /** Bytes that are really taken. */
  allocated: number;
  modified: Date;
  isFolder: boolean;
  inode: number;
}

/** Name of the folder that is not part of the pool. */
export const STATE_FOLDER = ".simulator";

/** The pool's folder: sparse files under paths like `/storage-pool/a/b.img`. Nothing outside of it is ever touched. */
export class Pool {
  readonly #folder: string;
  readonly #mountPoint: string;
  readonly #size: number;
  readonly #preallocated: boolean;

  constructor(options: { folder: string; mountPoint: string; size: number; preallocated: boolean }) {
    Deno.mkdirSync(options.folder, { recursive: true });
    this.#folder = Deno.realPathSync(options.folder);
    this.#mountPoint = options.mountPoint;
    this.#size = options.size;
    this.#preallocated = options.preallocated;
  }

  get size(): number {
    return this.#size;
  }

  /** Bytes that are left. */
  get free(): number {
    let taken = 0;
    for (const file of this.entries()) taken += this.#preallocated && !file.isFolder ? file.size : file.allocated;
    return Math.max(0, this.#size - taken);
  }

  /**
   * Refuses a file that cannot be held: sparse ones may be promised more than there is, but none may be larger than all.
   * @param held what the file holds already
   */
  demand(bytes: number, held = 0): void {
    const room = this.#preallocated ? this.free + held : this.#size;
    if (bytes > room) throw new ConsoleError("failure: not enough space");
  }

  /** The real path. @throws {ConsoleError} when the path is not on the pool or leaves it, also by a symbolic link */
  pathOf(name: string): string {
    const [first, ...rest] = name.replace(/^\//, "").split("/");
    const isStrange = (part: string) => part === "" || part === "." || part === ".." || /\0|.{256}/s.test(part);
    if (first !== this.#mountPoint || rest.length === 0 || rest.some(isStrange) || rest[0] === STATE_FOLDER) {
      throw new ConsoleError("failure: no such directory");
    }
    let path = this.#folder;
    for (const part of rest) {
      path = join(path, part);
      if (infoOf(path)?.isSymlink) throw new ConsoleError("failure: no such directory");
    }
    return path;
  }

  /** The file or folder of that name; undefined when there is none. */
  find(name: string): PoolFile | undefined {
    try {
      const info = infoOf(this.pathOf(name));
      return info && fileOf(name.replace(/^\//, ""), info);
    } catch (error) {
      if (error instanceof ConsoleError) return undefined;
      throw error;
    }
  }

  /** All files and folders. */
  *entries(folder = this.#folder, name = this.#mountPoint): Generator<PoolFile> {
    for (const entry of Deno.readDirSync(folder)) {
      if (folder === this.#folder && entry.name === STATE_FOLDER) continue;
      const [path, inner] = [join(folder, entry.name), `${name}/${entry.name}`];
      const info = entry.isSymlink ? undefined : infoOf(path);
      if (info) yield fileOf(inner, info);
      if (entry.isDirectory) yield* this.entries(path, inner);
    }
  }

  /** Makes the file, or changes its size (shrinking cuts its data off, as on the real thing). */
  resize(name: string, size: number, makesFolders = false): void {
    const path = this.pathOf(name);
    if (makesFolders) Deno.mkdirSync(dirname(path), { recursive: true });
    try {
      using file = Deno.openSync(path, { write: true, create: true });
      file.truncateSync(size);
    } catch (error) {
      if (error instanceof Deno.errors.NotFound) throw new ConsoleError("failure: no such directory");
      throw new ConsoleError(failureOf(error), { cause: error });
    }
  }

  /** Makes a folder with copies of another one's files (not of folders in it). */
  async makeFolder(name: string, source?: string): Promise<void> {
    const path = this.pathOf(name);
    Deno.mkdirSync(path);
    for (const entry of source === undefined ? [] : Deno.readDirSync(this.pathOf(source))) {
      if (entry.isFile) await copySparse(join(this.pathOf(source as string), entry.name), join(path, entry.name));
    }
  }

  /** Removes a folder and the files in it. @throws {ConsoleError} when there are folders in it */
  removeFolder(name: string): void {
    const inner = [...Deno.readDirSync(this.pathOf(name))];
    if (inner.some((entry) => entry.isDirectory)) throw new ConsoleError("failure: directory not empty");
    for (const entry of inner) this.remove(`${name}/${entry.name}`);
    this.remove(name);
  }

  remove(name: string): void {
    try {
      Deno.removeSync(this.pathOf(name));
    } catch (error) {
      throw error instanceof ConsoleError ? error : new ConsoleError(failureOf(error), { cause: error });
    }
  }
}

function fileOf(name: string, info: Deno.FileInfo): PoolFile {
  const { size, blocks, mtime, ino, isDirectory } = info;
  const allocated = (blocks ?? 0) * 512;
  return { name, size, allocated, modified: mtime ?? new Date(0), isFolder: isDirectory, inode: ino ?? 0 };
}

function infoOf(path: string): Deno.FileInfo | undefined {
  try {
    return Deno.lstatSync(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound || error instanceof Deno.errors.NotADirectory) return undefined;
    if (error instanceof Error && /name too long|Not a directory/i.test(error.message)) return undefined;
    throw error;
  }
}

/** What the file system said, without the path of the real file. */
function failureOf(error: unknown): string {
  return `failure: ${messageOf(error).split(":")[0]}`;
}

/** Copies a file and leaves its holes out. */
async function copySparse(from: string, to: string): Promise<void> {
  using source = await Deno.open(from);
  using copy = await Deno.open(to, { write: true, createNew: true });
  const { size } = await source.stat();
  await copy.truncate(size);
  const buffer = new Uint8Array(1 << 20);
  const zeros = new Uint8Array(buffer.length);
  for (let at = 0, read; (read = await source.read(buffer)) !== null; at += read) {
    const part = buffer.subarray(0, read);
    if (Buffer.compare(part, zeros.subarray(0, read)) === 0) continue;
    await copy.seek(at, Deno.SeekMode.Start);
    for (let done = 0; done < read;) done += await copy.write(part.subarray(done));
  }
}
