import { pause } from "../runtime/deadline.ts";
import { FailedPrecondition, messageOf, Unreachable } from "../runtime/errors.ts";
import { parseManagedNqn } from "./nqn.ts";

/** One connection to a subsystem: `/sys/class/nvme/nvme<c>`. */
export interface Controller {
  name: string;
  /** `live`, `connecting`, `resetting`, `new`, `deleting`, `dead` … (kernel: drivers/nvme/host/sysfs.c). */
  state: string;
  /** `traddr=…,trsvcid=…` */
  address: string;
}

/** The block device that carries I/O: with multipath that of the subsystem, never a path's own. */
export interface Namespace {
  /** `nvme<s>n<n>` */
  name: string;
  nsid: number;
  /** Bytes. */
  size: number;
  majorMinor: string;
  /** The device node's path: `<dev root>/<name>`. */
  path: string;
  /** Devices built on it (device mapper, RAID). */
  holders: string[];
}

/** All that the kernel has of one NQN. */
export interface Session {
  nqn: string;
  controllers: Controller[];
  namespaces: Namespace[];
  /** Whether I/O gets an answer: at least one controller is live. Touch no device of a session that is not. */
  live: boolean;
}

/** A session of ours, with the volume that its NQN names. */
export interface ManagedSession extends Session {
  volumeId: string;
  generation: number;
}

/** A thing vanished while it was being read: look again. */
class Gone extends Error {}

const controllerName = /^nvme\d+$/;
/** Heads and plain namespaces; `nvme<s>c<c>n<n>` is a path of a head and no device to use. */
const namespaceName = /^nvme\d+n\d+$/;
const attempts = 5;
/** Milliseconds between them. */
const interval = 20;

/** What the kernel says of its NVMe sessions, read anew at every question. */
export class Sysfs {
  readonly #root: string;
  readonly #devRoot: string;

  constructor(roots: { sysfs: string; dev: string }) {
    this.#root = roots.sysfs;
    this.#devRoot = roots.dev;
  }

  /** Path of a device node under the device root. */
  devicePath(name: string): string {
    return `${this.#devRoot}/${name}`;
  }

  /**
   * The session of exactly this NQN; `undefined` when the kernel has none.
   * @throws {Unreachable} when sysfs cannot be read, which says nothing of the session
   */
  async session(nqn: string): Promise<Session | undefined> {
    return (await this.#sessions((name) => name === nqn))[0];
  }

  /** All sessions whose NQN is the managed prefix and a well-formed id. */
  async managed(prefix: string): Promise<ManagedSession[]> {
    const found = await this.#sessions((nqn) => parseManagedNqn(prefix, nqn) !== undefined);
    return found.flatMap((session) => {
      const ours = parseManagedNqn(prefix, session.nqn);
      return ours ? [{ ...session, ...ours }] : [];
    });
  }

  /** The NQN whose session has a device of this number, ours or not. */
  async nqnOfDevice(majorMinor: string): Promise<string | undefined> {
    const sessions = await this.#sessions(() => true);
    return sessions.find(({ namespaces }) => namespaces.some((each) => each.majorMinor === majorMinor))?.nqn;
  }

  async #sessions(wanted: (nqn: string) => boolean): Promise<Session[]> {
    for (let attempt = 1;; attempt++) {
      try {
        return await this.#look(wanted);
      } catch (error) {
        if (error instanceof Gone && attempt < attempts) {
          await pause(interval);
          continue;
        }
        throw error instanceof FailedPrecondition ? error : new Unreachable(
          `the NVMe sessions of this node cannot be read under ${this.#root}: ${
            messageOf(error)
          }; try again, and look ` +
            "whether the host's /sys is mounted there",
          { cause: error },
        );
      }
    }
  }

  async #look(wanted: (nqn: string) => boolean): Promise<Session[]> {
    const sessions = new Map<string, Session>();
    const sessionOf = (nqn: string) => {
      const session = sessions.get(nqn) ?? { nqn, controllers: [], namespaces: [], live: false };
      sessions.set(nqn, session);
      return session;
    };
    // A controller that never finished its first handshake stands in class/nvme alone, without a subsystem.
    for (const { folder, nqn } of await this.#class("nvme", wanted)) {
      const session = sessionOf(nqn);
      session.controllers.push(await readController(folder));
      session.namespaces.push(...await this.#namespaces(folder));
    }
    for (const { folder, nqn } of await this.#class("nvme-subsystem", wanted)) {
      sessionOf(nqn).namespaces.push(...await this.#namespaces(folder));
    }
    for (const session of sessions.values()) {
      session.live = session.controllers.some((controller) => controller.state === "live");
    }
    return [...sessions.values()].filter((session) => session.controllers.length + session.namespaces.length > 0);
  }

  /** The entries (symlinks) of a class whose NQN is wanted. */
  async #class(name: string, wanted: (nqn: string) => boolean): Promise<{ folder: string; nqn: string }[]> {
    const folder = `${this.#root}/class/${name}`;
    const entries = await namesIn(folder).catch(async (error) => {
      if (!(error instanceof Gone)) throw error;
      await this.#requireSysfs();
      return []; // The kernel's module is not loaded: there is no session.
    });
    const found: { folder: string; nqn: string }[] = [];
    for (const entry of entries.filter((name) => /^nvme(-subsys)?\d+$/.test(name))) {
      const nqn = await attribute(`${folder}/${entry}`, "subsysnqn");
      if (wanted(nqn)) found.push({ folder: `${folder}/${entry}`, nqn });
    }
    return found;
  }

  async #requireSysfs(): Promise<void> {
    await Deno.stat(`${this.#root}/class`).catch((error) => {
      throw new FailedPrecondition(
        `${this.#root} holds no sysfs (${messageOf(error)}): mount the host's /sys there, or set --sysfs-root`,
        { cause: error },
      );
    });
  }

  async #namespaces(folder: string): Promise<Namespace[]> {
    const names = (await namesIn(folder)).filter((name) => namespaceName.test(name));
    return await Promise.all(names.map(async (name) => ({
      name,
      nsid: number(await attribute(`${folder}/${name}`, "nsid"), name),
      size: number(await attribute(`${folder}/${name}`, "size"), name) * 512,
      majorMinor: await attribute(`${folder}/${name}`, "dev"),
      path: this.devicePath(name),
      holders: await namesIn(`${folder}/${name}/holders`),
    })));
  }
}

async function readController(folder: string): Promise<Controller> {
  const name = folder.slice(folder.lastIndexOf("/") + 1);
  if (!controllerName.test(name)) throw new Error(`${folder} is no NVMe controller`);
  return { name, state: await attribute(folder, "state"), address: await attribute(folder, "address") };
}

function number(text: string, name: string): number {
  if (!/^\d+$/.test(text)) throw new Error(`'${text}' is no number (an attribute of ${name})`);
  return Number(text);
}

function asGone(error: unknown): unknown {
  const code = (error as { code?: unknown }).code;
  const gone = error instanceof Deno.errors.NotFound || code === "ENOENT" || code === "ENODEV";
  return gone ? new Gone(messageOf(error), { cause: error }) : error;
}

async function attribute(folder: string, name: string): Promise<string> {
  try {
    return (await Deno.readTextFile(`${folder}/${name}`)).trim();
  } catch (error) {
    throw asGone(error);
  }
}

async function namesIn(folder: string): Promise<string[]> {
  try {
    return (await Array.fromAsync(Deno.readDir(folder))).map((entry) => entry.name).sort();
  } catch (error) {
    throw asGone(error);
  }
}
