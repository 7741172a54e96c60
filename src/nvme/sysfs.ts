import { abortable, Deadline } from "../runtime/deadline.ts";
import { FailedPrecondition, messageOf, TimedOut, Unreachable } from "../runtime/errors.ts";
import { Shared } from "../runtime/shared.ts";
import { asGone, attribute, attributeIfAny, Gone, lookAgain, namesIn } from "./attributes.ts";
import { parseManagedNqn } from "./nqn.ts";

/** One connection to a subsystem: `/sys/class/nvme/nvme<c>`. */
export interface Controller {
  name: string;
  /** `live`, `connecting`, `resetting`, `new`, `deleting`, `dead` … (kernel: drivers/nvme/host/sysfs.c). */
  state: string;
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
  /** What a partition table on it makes of it; a driver's volume has none, but its user may have made one. */
  partitions: Partition[];
}

/** A part of a namespace: `nvme<s>n<n>p<p>`. */
export interface Partition {
  name: string;
  majorMinor: string;
  holders: string[];
}

/** All numbers under which a namespace is mounted or opened: its own and those of its partitions. */
export function numbersOf({ majorMinor, partitions }: Namespace): string[] {
  return [majorMinor, ...partitions.map((partition) => partition.majorMinor)];
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

/** As which host the kernel has connected to a subsystem. */
export interface HostOfSession {
  nqn: string;
  hostNqn: string;
  /** Undefined where the kernel does not show it. */
  hostId: string | undefined;
}

const controllerName = /^nvme\d+$/;
/** Heads and plain namespaces; `nvme<s>c<c>n<n>` is a path of a head and no device to use. */
const namespaceName = /^nvme\d+n\d+$/;

/** Reads that are sent at the same time: each one alone waits for its turn twice on a busy node, and holds a thread if it hangs. */
const atOnce = 8;
/** Milliseconds that one look may take. */
const defaultLimit = 10_000;

interface Cancellable {
  signal?: AbortSignal | undefined;
}

/** A controller's or subsystem's folder. */
interface Entry {
  folder: string;
  nqn: string;
}

/** What the kernel says of its NVMe sessions, read anew at every question. */
export class Sysfs {
  readonly #root: string;
  readonly #devRoot: string;
  readonly #limit: number;
  #hanging = 0;
  /** Whose each folder is takes reading them all: many volumes that are worked on at a time do it together. */
  readonly #entries = new Shared(() => Promise.all([this.#class("nvme"), this.#class("nvme-subsystem")]));

  /** @param options.limit milliseconds that one look may take; ten seconds by default */
  constructor(roots: { sysfs: string; dev: string }, options: { limit?: number } = {}) {
    this.#root = roots.sysfs;
    this.#devRoot = roots.dev;
    this.#limit = options.limit ?? defaultLimit;
  }

  /** The folder of the device nodes. */
  get devRoot(): string {
    return this.#devRoot;
  }

  /** Path of a device node under the device root. */
  devicePath(name: string): string {
    return `${this.#devRoot}/${name}`;
  }

  /**
   * The session of exactly this NQN; `undefined` when the kernel has none.
   * @throws {Unreachable} when sysfs cannot be read, which says nothing of the session
   */
  async session(nqn: string, options: Cancellable = {}): Promise<Session | undefined> {
    return (await this.#sessions((name) => name === nqn, options))[0];
  }

  /** All sessions whose NQN is the managed prefix and a well-formed id, or those of one volume: no other is looked at. */
  async managed(prefix: string, options: { volumeId?: string } & Cancellable = {}): Promise<ManagedSession[]> {
    const { volumeId, signal } = options;
    const isWanted = (nqn: string) => {
      const ours = parseManagedNqn(prefix, nqn);
      return ours !== undefined && (volumeId === undefined || ours.volumeId === volumeId);
    };
    const found = await this.#sessions(isWanted, { signal });
    return found.flatMap((session) => {
      const ours = parseManagedNqn(prefix, session.nqn);
      return ours ? [{ ...session, ...ours }] : [];
    });
  }

  /**
   * Whose a device, or a partition, of each number is today: the NQN of its session, ours or not, else the name of whatever
   * other disk it is, as all kinds share major 259. Numbers that no device has are not among them.
   */
  async ownersOf(numbers: readonly string[], options: Cancellable = {}): Promise<Map<string, string>> {
    const owners = new Map<string, string>();
    if (numbers.length === 0) return owners;
    const sessions = await this.#sessions(() => true, options);
    for (const number of numbers) {
      const isIts = ({ namespaces }: Session) => namespaces.some((each) => numbersOf(each).includes(number));
      const owner = sessions.find(isIts)?.nqn ?? await this.#guarded(() => this.#nameOf(number), options);
      if (owner !== undefined) owners.set(number, owner);
    }
    return owners;
  }

  /** As {@linkcode ownersOf}, of one number. */
  async ownerOf(majorMinor: string, options: Cancellable = {}): Promise<string | undefined> {
    return (await this.ownersOf([majorMinor], options)).get(majorMinor);
  }

  /** As which hosts the kernel has connected, the sessions under a managed prefix first. */
  async hosts(prefix: string, options: Cancellable = {}): Promise<HostOfSession[]> {
    const found = await this.#guarded(() => this.#hosts(), options);
    const isOurs = ({ nqn }: HostOfSession) => parseManagedNqn(prefix, nqn) !== undefined;
    return [...found.filter(isOurs), ...found.filter((each) => !isOurs(each))];
  }

  /** Whether the kernel has a module, built in or loaded. */
  async hasModule(name: string, options: Cancellable = {}): Promise<boolean> {
    const modules = await this.#guarded(() =>
      namesIn(`${this.#root}/module`).catch((error) => {
        throw error instanceof Gone ? this.#noSysfs(error) : error;
      }), options);
    return modules.includes(name);
  }

  #sessions(wanted: (nqn: string) => boolean, options: Cancellable): Promise<Session[]> {
    return this.#guarded(() => this.#look(wanted), options);
  }

  async #guarded<T>(look: () => Promise<T>, { signal }: Cancellable): Promise<T> {
    // A read cannot be called back. One that hangs holds a thread: no second one is sent after it.
    if (this.#hanging > 0) throw this.#unreadable("an earlier read of them still hangs");
    using deadline = new Deadline(this.#limit, `${this.#root}/class`, signal);
    const looking = lookAgain(look, deadline.signal);
    try {
      return await abortable(looking, deadline.signal);
    } catch (error) {
      if (signal?.aborted || error instanceof FailedPrecondition) throw error;
      if (error instanceof TimedOut) this.#count(looking);
      throw this.#unreadable(messageOf(error), error);
    }
  }

  #count(looking: Promise<unknown>): void {
    this.#hanging++;
    looking.catch(() => {}).finally(() => this.#hanging--);
  }

  #unreadable(why: string, cause?: unknown): Unreachable {
    return new Unreachable(
      `the NVMe sessions of this node cannot be read under ${this.#root}: ${why}; try again, and look whether the ` +
        "host's /sys is mounted there",
      { cause },
    );
  }

  async #look(wanted: (nqn: string) => boolean): Promise<Session[]> {
    const sessions = new Map<string, Session>();
    const sessionOf = (nqn: string) => {
      const session = sessions.get(nqn) ?? { nqn, controllers: [], namespaces: [], live: false };
      sessions.set(nqn, session);
      return session;
    };
    // A controller that never finished its first handshake stands in class/nvme alone, without a subsystem.
    const [controllers, subsystems] = await this.#entries.run();
    for (const entry of controllers.filter(({ nqn }) => wanted(nqn))) {
      const session = sessionOf(entry.nqn);
      const [controller, namespaces] = await Promise.all([
        readController(entry.folder),
        this.#namespaces(entry.folder),
      ]);
      session.controllers.push(controller);
      session.namespaces.push(...namespaces);
      await requireStill(entry);
    }
    for (const entry of subsystems.filter(({ nqn }) => wanted(nqn))) {
      sessionOf(entry.nqn).namespaces.push(...await this.#namespaces(entry.folder));
      await requireStill(entry);
    }
    for (const session of sessions.values()) {
      session.live = session.controllers.some((controller) => controller.state === "live");
    }
    return [...sessions.values()].filter((session) => session.controllers.length + session.namespaces.length > 0);
  }

  /** Controllers of the PCI bus have no host. */
  async #hosts(): Promise<HostOfSession[]> {
    const found: HostOfSession[] = [];
    const [controllers] = await this.#entries.run();
    for (const { folder, nqn } of controllers) {
      const hostNqn = await attributeIfAny(folder, "hostnqn");
      if (hostNqn) found.push({ nqn, hostNqn, hostId: await attributeIfAny(folder, "hostid") });
    }
    return found;
  }

  /** The entries (symlinks) of a class. */
  async #class(name: string): Promise<Entry[]> {
    const folder = `${this.#root}/class/${name}`;
    const names = await namesIn(folder).catch(async (error) => {
      if (!(error instanceof Gone)) throw error;
      await this.#requireSysfs();
      return []; // The kernel's module is not loaded: there is no session.
    });
    const folders = names.filter((name) => /^nvme(-subsys)?\d+$/.test(name)).map((name) => `${folder}/${name}`);
    const entries: Entry[] = [];
    while (folders.length > 0) {
      const some = folders.splice(0, atOnce);
      entries.push(
        ...await Promise.all(some.map(async (each) => ({ folder: each, nqn: await attribute(each, "subsysnqn") }))),
      );
    }
    return entries;
  }

  async #nameOf(majorMinor: string): Promise<string | undefined> {
    try {
      return (await Deno.readLink(`${this.#root}/dev/block/${majorMinor}`)).replace(/^.*\//, "");
    } catch (error) {
      if (asGone(error) instanceof Gone) return undefined;
      throw error;
    }
  }

  async #requireSysfs(): Promise<void> {
    await Deno.stat(`${this.#root}/class`).catch((error) => {
      throw this.#noSysfs(error);
    });
  }

  #noSysfs(cause: unknown): FailedPrecondition {
    return new FailedPrecondition(
      `${this.#root} holds no sysfs (${messageOf(cause)}): mount the host's /sys there, or set --sysfs-root`,
      { cause },
    );
  }

  async #namespaces(folder: string): Promise<Namespace[]> {
    const names = (await namesIn(folder)).filter((name) => namespaceName.test(name));
    return await Promise.all(names.map(async (name) => {
      const own = `${folder}/${name}`;
      const [nsid, size, majorMinor, holders, partitions] = await Promise.all([
        attribute(own, "nsid"),
        attribute(own, "size"),
        attribute(own, "dev"),
        namesIn(`${own}/holders`),
        partitionsOf(own, name),
      ]);
      const path = this.devicePath(name);
      return { name, nsid: number(nsid, name), size: number(size, name) * 512, majorMinor, path, holders, partitions };
    }));
  }
}

/** The kernel gives a number anew: what was read under it must have been all of one NQN. */
async function requireStill({ folder, nqn }: Entry): Promise<void> {
  if (await attribute(folder, "subsysnqn") !== nqn) throw new Gone(`${folder} has become another's`);
}

async function partitionsOf(folder: string, name: string): Promise<Partition[]> {
  const names = (await namesIn(folder)).filter((each) => each.startsWith(`${name}p`));
  return await Promise.all(names.map(async (each) => ({
    name: each,
    majorMinor: await attribute(`${folder}/${each}`, "dev"),
    holders: await namesIn(`${folder}/${each}/holders`),
  })));
}

async function readController(folder: string): Promise<Controller> {
  const name = folder.slice(folder.lastIndexOf("/") + 1);
  if (!controllerName.test(name)) throw new Error(`${folder} is no NVMe controller`);
  return { name, state: await attribute(folder, "state") };
}

function number(text: string, name: string): number {
  if (!/^\d+$/.test(text)) throw new Error(`'${text}' is no number (an attribute of ${name})`);
  return Number(text);
}
