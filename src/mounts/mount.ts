import type { Commands } from "../runtime/command.ts";
import { AlreadyExists, FailedPrecondition, InUse, messageOf } from "../runtime/errors.ts";
import { type Mount, mountAt, type MountTable, refuseStorm, resolved } from "./mountinfo.ts";

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

  /** What is mounted at a path. */
  async at(path: string, options: Cancellable = {}): Promise<Mount | undefined> {
    const target = await resolved(path);
    return target === undefined ? undefined : mountAt(await this.#table.read(options), target);
  }

  /**
   * Makes sure that a device's filesystem is mounted at a folder that exists. A no-op when it is.
   * @returns whether it was mounted now
   * @throws {AlreadyExists} when another device is mounted there
   */
  async mount(
    device: { path: string; majorMinor: string },
    target: string,
    options: { fsType: string; mountOptions: readonly string[] } & Cancellable,
  ): Promise<boolean> {
    if (await this.#there(device.majorMinor, target, options)) return false;
    const chosen = options.mountOptions.length > 0 ? ["-o", options.mountOptions.join(",")] : [];
    await this.#run("mount", ["-t", options.fsType, ...chosen, device.path, target], options);
    await this.#require(device.majorMinor, target, options);
    return true;
  }

  /**
   * Makes sure that the filesystem mounted at `source` is seen at `target` too, read-only if asked.
   * @throws {AlreadyExists} when another device is there, or the same in the other mode
   */
  async bind(
    source: Mount,
    target: string,
    options: { readOnly: boolean } & Cancellable,
  ): Promise<void> {
    const { majorMinor } = source;
    const made = !await this.#there(majorMinor, target, options);
    if (made) await this.#run("mount", ["--bind", source.target, target], options);
    const mount = await this.#require(majorMinor, target, options);
    const isReadOnly = mount.options.includes("ro");
    if (options.readOnly) {
      // Bind and read-only are two calls of the kernel: a crash between them leaves the first, which the next try mends.
      if (!isReadOnly) await this.#run("mount", ["-o", "remount,bind,ro", target], options);
      return;
    }
    if (made || !isReadOnly || source.options.includes("ro")) return;
    throw new AlreadyExists(`${target} is published read-only and was asked for writable: unpublish it first`);
  }

  /**
   * Unmounts whatever of the volume is at a path, until nothing is mounted there.
   * @param isOurs whether a mount is the volume's: anything else is left alone
   * @throws {FailedPrecondition} when something else is mounted there; {@linkcode InUse} when it is busy
   */
  async unmount(path: string, isOurs: (mount: Mount) => boolean, options: Cancellable = {}): Promise<void> {
    const target = await resolved(path);
    if (target === undefined) return;
    for (let left = Infinity;;) {
      const there = (await this.all(options)).filter((mount) => mount.target === target);
      const mount = there.at(-1);
      if (!mount) return;
      if (there.length >= left) throw this.#unshared(target);
      left = there.length;
      if (!isOurs(mount)) {
        throw new FailedPrecondition(
          `${target} is a mount of ${mount.source} (${mount.majorMinor}), not of this volume: it is left alone. Find out ` +
            `what it is with 'findmnt ${target}' and unmount it by hand if nothing needs it`,
        );
      }
      await this.#run("umount", ["--no-canonicalize", target], options);
    }
  }

  async #there(majorMinor: string, target: string, options: Cancellable): Promise<boolean> {
    const mounts = await this.all(options);
    const mount = mountAt(mounts, await resolved(target) ?? target);
    if (mount?.majorMinor === majorMinor) return true;
    if (mount) {
      throw new AlreadyExists(
        `${target} is a mount of another device already: ${mount.source} (${mount.majorMinor}), not ${majorMinor}. ` +
          "Nothing is mounted over it; unmount it if no pod needs it",
      );
    }
    refuseStorm(mounts, majorMinor);
    return false;
  }

  async #require(majorMinor: string, target: string, options: Cancellable): Promise<Mount> {
    const mount = await this.at(target, options);
    if (mount?.majorMinor === majorMinor) return mount;
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
