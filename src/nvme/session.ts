import { type Commands, type Output, Stuck } from "../runtime/command.ts";
import { abortable, Deadline, poll, throwIfAborted } from "../runtime/deadline.ts";
import { blockNumberOf } from "../runtime/device_number.ts";
import { FailedPrecondition, InvalidArgument, messageOf, TimedOut, Unreachable } from "../runtime/errors.ts";
import { log } from "../runtime/log.ts";
import { untilFolder } from "./folder.ts";
import type { HostIdentity } from "./host.ts";
import type { Host } from "./host_nqn.ts";
import { noModule, tcpModule } from "./module.ts";
import { parseManagedNqn } from "./nqn.ts";
import { Places } from "./places.ts";
import type { ManagedSession, Namespace, Session, Sysfs } from "./sysfs.ts";

/** Where an export is, and how the kernel is to hold on to it. */
export interface Target {
  nqn: string;
  address: string;
  port: number;
  /** Seconds until the kernel gives a lost connection up; -1: never. */
  ctrlLossTmo: number;
  /** Seconds between attempts to reconnect. */
  reconnectDelay: number;
  /** Seconds; 0: the kernel's default. */
  keepAliveTmo: number;
}

/** The one namespace of a live session. */
export interface Device extends Namespace {
  nqn: string;
}

/** Milliseconds. */
export interface NvmeDeadlines {
  /** From the start of a connect until its device can be used. */
  connect: number;
  /** Any other call of nvme-cli, and what it is to bring about. */
  command: number;
}

interface Cancellable {
  signal?: AbortSignal | undefined;
}

/** How making sure of a live session ended. */
export interface ConnectOutcome {
  nqn: string;
  /** Whether there was none, so that one was to be made. */
  made: boolean;
  /** Undefined: it is live. */
  error: unknown;
  seconds: number;
}

/** Settings of {@linkcode Sessions}. */
export interface SessionsOptions {
  commands: Commands;
  sysfs: Sysfs;
  prefix: string;
  deadlines: NvmeDeadlines;
  /** As whom this node connects. */
  host: Pick<HostIdentity, "get">;
  /** Queues for I/O of each session; 0: as many as the kernel makes. */
  ioQueues?: number | undefined;
  /** Is told how each connect ended. */
  ended?: (outcome: ConnectOutcome) => void;
}

/** The server does not show a node the whole size of a volume (yet): nothing is wrong with the device. */
export class NotGrown extends Unreachable {}

const probeDeadline = 2000;
/** Milliseconds until a server that has not shown a growth is asked again. */
const askedAgainAfter = 1000;
/** Connects that the kernel is given at the same time. */
const atOnce = 4;

/**
 * The life of the NVMe/TCP sessions under one managed prefix. It never touches another. One caller at a time for each
 * volume: the server sees to that (CSI 1.13, "Concurrency").
 */
export class Sessions {
  readonly #commands: Commands;
  readonly #sysfs: Sysfs;
  readonly #prefix: string;
  readonly #deadlines: NvmeDeadlines;
  readonly #options: SessionsOptions;
  readonly #places = new Places(atOnce);

  constructor(options: SessionsOptions) {
    this.#options = options;
    this.#commands = options.commands;
    this.#sysfs = options.sysfs;
    this.#prefix = options.prefix;
    this.#deadlines = options.deadlines;
  }

  /** The sessions of a volume, of whatever generation, live or not. */
  async ofVolume(volumeId: string, options: Cancellable = {}): Promise<ManagedSession[]> {
    return await this.#sysfs.managed(this.#prefix, { ...options, volumeId });
  }

  /**
   * The device behind an NQN, as it is called now.
   * @throws {Unreachable} when there is no session or it is not live: its device must not be touched
   */
  async device(nqn: string, options: Cancellable = {}): Promise<Device> {
    const session = await this.#sysfs.session(this.#ours(nqn), options);
    if (!session) throw new Unreachable(`this node has no NVMe session of ${nqn}: the volume must be staged (again)`);
    return deviceOf(session);
  }

  /**
   * Makes sure that a live session of the target exists and its device can be used.
   * @throws {Unreachable} when the server does not answer or the session does not come alive in time
   * @throws {FailedPrecondition} when the kernel has no NVMe/TCP, or this node's host NQN cannot be used
   */
  async connect(target: Target, options: Cancellable = {}): Promise<Device> {
    const nqn = this.#ours(target.nqn);
    using deadline = new Deadline(this.#deadlines.connect, `the NVMe session of ${nqn}`, options.signal);
    const { signal } = deadline;
    const began = performance.now();
    let made = false;
    const ended = (error?: unknown) =>
      this.#options.ended?.({ nqn, made, error, seconds: (performance.now() - began) / 1000 });
    try {
      if (!await this.#settled(nqn, signal)) {
        made = true;
        await probe(target, signal);
        await this.#nvmeConnect(target, signal);
      }
      const device = await this.#usable(nqn, signal);
      ended();
      return device;
    } catch (error) {
      const why = isLate(error) && !options.signal?.aborted ? await this.#explained(error, target) : error;
      ended(why);
      throw why;
    }
  }

  /**
   * Ends the session of this NQN and proves it: neither a controller nor a device of it is left.
   * @throws {Unreachable} when it is still there at the deadline
   */
  async disconnect(nqn: string, options: Cancellable = {}): Promise<void> {
    this.#ours(nqn);
    using deadline = new Deadline(this.#deadlines.command, `'nvme disconnect -n ${nqn}'`, options.signal);
    const { signal } = deadline;
    try {
      if (!await this.#sysfs.session(nqn, { signal })) return;
      const output = await this.#nvme(["disconnect", "-n", nqn], signal);
      if (output.code !== 0) throw failed("disconnect", nqn, output);
      await poll(async () => await this.#sysfs.session(nqn, { signal }) ? undefined : true, { signal });
    } catch (error) {
      if (!isLate(error) || options.signal?.aborted) throw error;
      throw new Unreachable(`the NVMe session of ${nqn} is still there after its disconnect: it is tried again`, {
        cause: error,
      });
    }
  }

  /**
   * Asks the server for the namespace's size, again and again, until it is `wanted` bytes or more: some servers let a
   * namespace grow a moment after they are asked, or after a host has connected.
   * @throws {NotGrown} when it stays smaller
   */
  async rescan(nqn: string, wanted: number, options: Cancellable = {}): Promise<Device> {
    this.#ours(nqn);
    using deadline = new Deadline(this.#deadlines.command, `${nqn} to grow`, options.signal);
    const { signal } = deadline;
    let seen = 0;
    let asked = -Infinity;
    try {
      return await poll(async () => {
        if (performance.now() - asked >= askedAgainAfter) {
          await this.#nsRescan(nqn, signal);
          asked = performance.now();
        }
        const device = await this.device(nqn, { signal });
        seen = device.size;
        return seen >= wanted ? device : undefined;
      }, { signal, interval: 50 });
    } catch (error) {
      if (!isLate(error) || options.signal?.aborted || seen === 0) throw error;
      throw new NotGrown(
        `the device of ${nqn} has ${seen} bytes, not the ${wanted} that the volume has: the server does not show the ` +
          "growth to a connected node. It is tried again; where exports grow only on reconnection, stage the volume again",
        { cause: error },
      );
    }
  }

  #ours(nqn: string): string {
    if (parseManagedNqn(this.#prefix, nqn)) return nqn;
    throw new InvalidArgument(
      `'${nqn}' is no NQN of this driver's volumes (they begin with '${this.#prefix}' and end with the volume's id): ` +
        "it is not touched; set CSI_MANAGED_NQN_PREFIX to the same value on controller and nodes",
    );
  }

  #nvme(args: string[], signal: AbortSignal): Promise<Output> {
    return this.#commands.run("nvme", args, { deadline: this.#deadlines.connect, signal });
  }

  /** Waits while a session is on its way. `true`: it is live; `false`: there is none, or the kernel gave it up. */
  async #settled(nqn: string, signal: AbortSignal): Promise<boolean> {
    let told = false;
    return await poll(async () => {
      const session = await this.#sysfs.session(nqn, { signal });
      // One that is dead stays so, and the kernel takes another beside it; one that is being deleted is soon gone.
      if (!session?.controllers.some(({ state }) => state !== "dead")) return false;
      if (session.live) return true;
      if (!told) log.info("an NVMe session exists and is not live: waiting for it", { nqn, state: stateOf(session) });
      told = true;
      return undefined;
    }, { signal });
  }

  async #nvmeConnect(target: Target, signal: AbortSignal): Promise<void> {
    const host = await this.#options.host.get({ signal });
    const args = connectArguments(target, host, this.#options.ioQueues);
    const output = await this.#places.run(() => this.#nvme(args, signal), { signal });
    // "already connected": another one was faster, or the kernel holds a session that has just come up.
    if (output.code !== 0 && !/already connected|already in progress/i.test(output.stderr + output.stdout)) {
      if (!await this.#sysfs.hasModule(tcpModule, { signal })) throw noModule();
      throw failed("connect", target.nqn, output);
    }
  }

  async #nsRescan(nqn: string, signal: AbortSignal): Promise<void> {
    await this.device(nqn, { signal });
    for (const controller of (await this.#sysfs.session(nqn, { signal }))?.controllers ?? []) {
      if (controller.state !== "live") continue;
      const output = await this.#nvme(["ns-rescan", this.#sysfs.devicePath(controller.name)], signal);
      if (output.code !== 0) throw failed("ns-rescan", nqn, output);
    }
  }

  /** Waits until the session is live and the device node of its namespace is there. */
  async #usable(nqn: string, signal: AbortSignal): Promise<Device> {
    const look = async () => {
      const session = await this.#sysfs.session(nqn, { signal });
      if (!session?.live || session.namespaces.length === 0) return undefined;
      const device = deviceOf(session);
      return device.size > 0 && await isNodeOf(device) ? device : undefined;
    };
    return await look() ?? await untilFolder(this.#sysfs.devRoot, look, { signal });
  }

  async #explained(error: unknown, target: Target): Promise<Unreachable> {
    const session = await this.#sysfs.session(target.nqn).catch(() => undefined);
    const state = session ? `its state is '${stateOf(session)}'` : "the kernel has none";
    return new Unreachable(
      `the NVMe session of ${target.nqn} cannot be used within ${
        this.#deadlines.connect / 1000
      } s: ${state}. Look at ` +
        `the network between this node and ${target.address}:${target.port}, at 'nvme list-subsys' and at dmesg`,
      { cause: error },
    );
  }
}

/** Whether a deadline passed. A program that cannot be ended is another matter: its volume stays locked until it ends. */
function isLate(error: unknown): boolean {
  return error instanceof TimedOut && !(error instanceof Stuck);
}

function stateOf(session: Session): string {
  return session.controllers.map((controller) => `${controller.name} ${controller.state}`).join(", ") ||
    "no controller";
}

function deviceOf(session: Session): Device {
  if (!session.live) {
    throw new Unreachable(
      `the NVMe session of ${session.nqn} is not live (${
        stateOf(session)
      }), so its device is not touched: look at the ` +
        "network to the server; the kernel reconnects by itself",
    );
  }
  const [namespace, ...others] = session.namespaces;
  if (!namespace) throw new Unreachable(`the NVMe session of ${session.nqn} has no namespace yet: it is tried again`);
  if (others.length === 0) return { ...namespace, nqn: session.nqn };
  throw new FailedPrecondition(
    `${session.nqn} has ${session.namespaces.length} namespaces (${
      session.namespaces.map((each) => each.name)
    }) and a ` +
      "volume has one: this export was not made by the driver; look at it on the server",
  );
}

/** Whether the device node at the path is the one that sysfs means: udev may be late, or the node another's. Opens nothing. */
export async function isNodeOf(device: Namespace): Promise<boolean> {
  try {
    return blockNumberOf(await Deno.stat(device.path)) === device.majorMinor;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

function connectArguments(target: Target, host: Host, ioQueues = 0): string[] {
  return [
    ...["connect", "-t", "tcp", "-a", target.address, "-s", String(target.port), "-n", target.nqn],
    `--ctrl-loss-tmo=${target.ctrlLossTmo}`,
    `--reconnect-delay=${target.reconnectDelay}`,
    ...(target.keepAliveTmo > 0 ? [`--keep-alive-tmo=${target.keepAliveTmo}`] : []),
    ...(ioQueues > 0 ? [`--nr-io-queues=${ioQueues}`] : []),
    `--hostnqn=${host.nqn}`,
    `--hostid=${host.id}`,
  ];
}

/** One mutex of the kernel is held across connects: an address that is dead must not reach it. */
async function probe(target: Target, parent: AbortSignal): Promise<void> {
  const { address: hostname, port } = target;
  using deadline = new Deadline(probeDeadline, `TCP port ${hostname}:${port}`, parent);
  try {
    const { signal } = deadline;
    const connection = Deno.connect({ hostname, port, signal });
    connection.then((late) => late.close()).catch(() => {});
    await abortable(connection, signal);
  } catch (error) {
    throwIfAborted(parent);
    throw new Unreachable(
      `the storage server does not answer on ${hostname}:${port} (${messageOf(error)}): look at the network, at the ` +
        "export's address and port, and whether the volume is exported",
      { cause: error },
    );
  }
}

function failed(what: string, nqn: string, { code, stderr, stdout }: Output): Unreachable {
  const said = (stderr.trim() || stdout.trim() || "nothing").replaceAll(/\s*\n\s*/g, "; ");
  return new Unreachable(
    `'nvme ${what}' of ${nqn} ended with ${code} and said: ${said}. Look whether the server exports it, and at dmesg`,
  );
}
