import { type Commands, Stuck } from "../runtime/command.ts";
import { AlreadyExists, FailedPrecondition, InUse, messageOf } from "../runtime/errors.ts";
import { log } from "../runtime/log.ts";
import { infoOf, type Mount, mountAt, type MountTable, refuseStorm, resolved } from "./mountinfo.ts";

interface Cancellable {
  signal?: AbortSignal | undefined;
}

/** Mounts and unmounts through util-linux, and believes mountinfo alone. */
export class Mounts {
  readonly #commands: Commands;
  readonly #table: MountTable;
  readonly #deadline: number;

  /** @param options.deadline milliseconds for each call of mount(8) and umount(8) */
  constructor(options: { commands: Commands; table: MountTable; deadline: number }) {
    this.#commands = options.commands;
    this.#table = options.table;
    this.#deadline = options.deadline;
  }

  /** All mounts of the host. */
  all(options: Cancellable = {}): Promise<Mount[]> {
    return this.#table.read(options);
  }

  /** All mounts of the host, and those that only this process sees. */
  anywhere(options: Cancellable = {}): Promise<Mount[]> {
    return this.#table.readAll(options);
  }

  /** What is mounted at a path. */
  async at(path: string, options: Cancellable = {}): Promise<Mount | undefined> {
    const target = await resolved(path);
    return target === undefined ? undefined : mountAt(await this.#table.read(options), target);
  }

  /**
   * Looks whether something is mounted at a path or could be: a mount at a link would stand where the link points to, unseen.
   * @throws {FailedPrecondition} when the path is a link or no folder
   */
  async requirePlace(path: string, options: Cancellable = {}): Promise<void> {
    if (!await this.at(path, options)) await requireFolder(path);
  }

  /**
   * Makes sure that a device's filesystem is mounted at a folder that exists. A no-op when it is.
   * @throws {AlreadyExists} when another device is mounted there, or the same in the other mode
   * @throws {FailedPrecondition} when the path is a link or no folder
   */
  async mount(
    device: { path: string; majorMinor: string },
    target: string,
    options: { fsType: string; mountOptions: readonly string[] } & Cancellable,
  ): Promise<void> {
    const there = await this.#there(device.majorMinor, target, options);
    if (there) return requireMode(there, options.mountOptions.includes("ro"));
    const chosen = options.mountOptions.length > 0 ? ["-o", options.mountOptions.join(",")] : [];
    await this.#run("mount", ["-t", options.fsType, ...chosen, device.path, target], options);
    await this.#requireMade(device.majorMinor, target, options);
  }

  /**
   * Makes sure that the filesystem mounted at `source` is seen at `target` too, read-only if asked.
   * @param options.begun whether an earlier call began to make it read-only: bind and read-only are two calls of the kernel,
   * and one that was cut off between them left it writable
   * @throws {AlreadyExists} when another device is there, or the same in the other mode
   * @throws {FailedPrecondition} when the target is a link or no folder
   */
  async bind(
    source: Mount,
    target: string,
    options: { readOnly: boolean; begun?: boolean } & Cancellable,
  ): Promise<void> {
    const { majorMinor } = source;
    const there = await this.#there(majorMinor, target, options);
    if (there) {
      const mends = options.readOnly && options.begun === true;
      if (!mends) requireMode(there, options.readOnly || source.options.includes("ro"));
    } else await this.#run("mount", ["--bind", source.target, target], options);
    const mount = there ?? await this.#requireMade(majorMinor, target, options);
    if (!options.readOnly || mount.options.includes("ro")) return;
    await this.#run("mount", ["-o", "remount,bind,ro", target], options);
  }

  /**
   * Unmounts whatever of the volume is at a path, until nothing is mounted there.
   * @param isOurs whether a mount is the volume's: anything else is left alone
   * @throws {FailedPrecondition} when something else is mounted there; {@linkcode InUse} when it is busy
   */
  async unmount(path: string, isOurs: (mount: Mount) => boolean, options: Cancellable = {}): Promise<void> {
    const target = await resolved(path);
    if (target !== undefined) await this.unmountTarget(target, isOurs, options);
  }

  /** As {@linkcode unmount}, of a target just as mountinfo has it: nothing on the way to it is looked at. */
  async unmountTarget(target: string, isOurs: (mount: Mount) => boolean, options: Cancellable = {}): Promise<void> {
    for (let left = Infinity;;) {
      const there = (await this.all(options)).filter((mount) => mount.target === target);
      const mount = there.at(-1);
      if (!mount) return;
      if (there.length >= left) throw this.#unshared(target);
      left = there.length;
      if (!isOurs(mount)) throw foreignMount(mount);
      await this.#run("umount", ["--no-canonicalize", target], options);
    }
  }

  async #there(majorMinor: string, target: string, options: Cancellable): Promise<Mount | undefined> {
    const mounts = await this.all(options);
    const mount = mountAt(mounts, await resolved(target) ?? target);
    if (mount?.majorMinor === majorMinor) return mount;
    if (mount) {
      throw new AlreadyExists(
        `${target} is a mount of another device already: ${mount.source} (${mount.majorMinor}), not ${majorMinor}. ` +
          "Nothing is mounted over it; unmount it if no pod needs it",
      );
    }
    refuseStorm(mounts, majorMinor);
    await requireFolder(target);
    return undefined;
  }

  /** The mount that was just made. One that is not seen as it should be is taken away again, so that none are stacked. */
  async #requireMade(majorMinor: string, target: string, options: Cancellable): Promise<Mount> {
    const mount = await this.at(target, options);
    if (mount?.majorMinor === majorMinor) return mount;
    await this.#run("umount", [target], {}).catch((error) => {
      if (error instanceof Stuck) throw error; // Its volume stays guarded.
      log.warn("a mount is not undone", { target, error });
    });
    throw this.#unshared(target);
  }

  #unshared(target: string): FailedPrecondition {
    return new FailedPrecondition(
      `the mounts at ${target} on the host are not what was just made of them: the driver must share its mounts with the ` +
        "host (mountPropagation: Bidirectional for the kubelet's folder)",
    );
  }

  async #run(program: string, args: string[], { signal }: Cancellable): Promise<void> {
    const { code, stderr } = await this.#commands.run(program, args, { deadline: this.#deadline, signal });
    if (code === 0) return;
    const said = `'${program} ${args.join(" ")}' ended with ${code}: ${stderr.trim()}`;
    if (/target is busy/.test(stderr)) {
      throw new InUse(`${said}. A process has files open there: find it with 'fuser -vm ${args.at(-1)}' and end it`);
    }
    throw new FailedPrecondition(`${said}. The kernel's reason stands at the end of dmesg`);
  }
}

/** The refusal to unmount what is not the volume's. */
export function foreignMount({ target, source, majorMinor }: Mount): FailedPrecondition {
  return new FailedPrecondition(
    `${target} is a mount of ${source} (${majorMinor}), not of this volume: it is left alone. Find out what it is with ` +
      `'findmnt ${target}' and unmount it by hand if nothing needs it`,
  );
}

/** @throws {AlreadyExists} when a mount is writable and should be read-only, or the other way round */
function requireMode(mount: Mount, readOnly: boolean): void {
  if (mount.options.includes("ro") === readOnly) return;
  const [is, asked] = readOnly ? ["writable", "read-only"] : ["read-only", "writable"];
  throw new AlreadyExists(`${mount.target} is mounted ${is} and was asked for ${asked}: unmount (unpublish) it first`);
}

async function requireFolder(path: string): Promise<void> {
  const info = await infoOf(path);
  if (info?.isDirectory) return;
  const found = !info ? "does not exist" : info.isSymlink ? "is a symbolic link" : "is no folder";
  throw new FailedPrecondition(
    `${path} ${found}: nothing is mounted there. Whoever stages or publishes makes a folder; look what else made it`,
  );
}

/**
 * Makes a folder in one that exists. A no-op when it is there.
 * @throws {FailedPrecondition} when it cannot be made
 */
export async function ensureFolder(path: string): Promise<void> {
  try {
    await Deno.mkdir(path, { mode: 0o750 });
  } catch (error) {
    if (error instanceof Deno.errors.AlreadyExists) return;
    throw new FailedPrecondition(
      `${path} cannot be made (${messageOf(error)}): whoever publishes makes the folder above it`,
      { cause: error },
    );
  }
}

/**
 * Removes an empty folder, or nothing when there is none. Never what is in it.
 * @throws {FailedPrecondition} when it is not empty
 */
export async function removeEmptyFolder(path: string): Promise<void> {
  try {
    await Deno.remove(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return;
    throw new FailedPrecondition(
      `${path} cannot be removed (${
        messageOf(error)
      }): the driver removes nothing but empty folders; look what is in it`,
      { cause: error },
    );
  }
}
