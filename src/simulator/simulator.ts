import { join } from "node:path";
import { abortable, pause, throwIfAborted } from "../runtime/deadline.ts";
import { FailedPrecondition } from "../runtime/errors.ts";
import { log } from "../runtime/log.ts";
import { type ConsoleLine, runLine } from "./console.ts";
import { serveControl } from "./control.ts";
import { type Exporter, LoopExporter, noExporter } from "./exporter.ts";
import { Faults } from "./faults.ts";
import { fingerprintOf, type KeyPair, keyPair } from "./keys.ts";
import { diskMenu } from "./menus/disk.ts";
import { fileMenu } from "./menus/file.ts";
import type { Menus } from "./menus/menu.ts";
import { subvolumeMenu } from "./menus/subvolume.ts";
import { packageMenu, resourceMenu } from "./menus/system.ts";
import type { SimulatorOptions } from "./options.ts";
import { Pool, STATE_FOLDER } from "./pool.ts";
import { type Exec, SshServer } from "./ssh_server.ts";
import { type Decided, Disks } from "./store.ts";
import { Subvolumes } from "./subvolumes.ts";
import type { Row } from "./values.ts";

/** What a simulator holds and has done. */
export interface SimulatorState {
  disks: Row[];
  /** Bytes: as `stat` tells, and really taken. */
  files: { name: string; size: number; allocated: number }[];
  /** Bytes. */
  pool: { size: number; free: number };
  /** Lines that came over SSH. */
  lines: number;
  /** Commands that ran over SSH, by name: `disk add`. Those of `:put` and the like are not counted. */
  commands: Record<string, number>;
  connections: number;
  channels: number;
  /** Faults that have not happened yet. */
  faults: number;
}

/** What is taken where no guess is given. */
export const guessDefaults: Decided = {
  uniqueSlots: true,
  uniqueFiles: true,
  uniqueNqns: true,
  longestSlot: 32,
  sizeOnExistingFile: false,
  preallocated: false,
  makesFolders: true,
  removesUsedFiles: false,
  leadingSlash: true,
  growth: "now",
  outlivesChannel: true,
  noRows: "brackets",
  jsonDecimals: false,
  maxChannels: 18,
  exportsBackAfter: 0,
};

/**
 * Starts a RouterOS that keeps its disks in a folder.
 * @throws {FailedPrecondition} when the options do not fit together
 */
export async function startSimulator(options: SimulatorOptions): Promise<Simulator> {
  const simulator = new Simulator(options);
  await simulator.start();
  return simulator;
}

/** A RouterOS with one pool, over SSH. Made by {@linkcode startSimulator}. */
export class Simulator {
  readonly host: string;
  /** The host's public key in authorized_keys form. */
  readonly hostKey: string;
  /** Its fingerprint: `SHA256:…` */
  readonly fingerprint: string;
  /** A private key that may log in, when no keys were given. */
  readonly clientKeyFile: string | undefined;
  readonly faults: Faults;
  readonly #options: SimulatorOptions;
  readonly #guesses: Decided;
  readonly #latency: Map<string, number>;
  readonly #pool: Pool;
  readonly #disks: Disks;
  readonly #menus: Menus;
  readonly #server: SshServer;
  readonly #channels = new Set<Exec>();
  readonly #commands: Record<string, number> = {};
  #lines = 0;
  #port = 0;
  #power = new AbortController();
  #control: { close(): Promise<void> } | undefined;

  constructor(options: SimulatorOptions) {
    this.#options = options;
    this.#guesses = { ...guessDefaults, ...options.guesses };
    this.#latency = new Map(Object.entries(options.latency ?? {}));
    this.#pool = new Pool({
      folder: options.poolFolder,
      mountPoint: mountPointOf(options),
      size: options.poolSize ?? 100 * 1024 ** 3,
      preallocated: this.#guesses.preallocated,
    });
    Deno.mkdirSync(join(options.poolFolder, STATE_FOLDER), { recursive: true, mode: 0o700 });
    this.#disks = new Disks({
      pool: this.#pool,
      poolFolder: options.poolFolder,
      exporter: exporterOf(options),
      guesses: this.#guesses,
    });
    this.#menus = this.#makeMenus();
    plantRows(this.#disks, options);
    const hostKey = this.#key("host_key");
    const clientKey = options.authorizedKeys || options.authorizedKeysFile ? undefined : this.#key("client_key");
    this.host = options.host ?? "127.0.0.1";
    this.hostKey = hostKey.public;
    this.fingerprint = fingerprintOf(hostKey.public);
    this.clientKeyFile = clientKey?.file;
    this.faults = new Faults((milliseconds) => this.#reboot(milliseconds), options.faults);
    this.#server = new SshServer({
      host: this.host,
      hostKey: hostKey.private,
      user: options.user,
      authorizedKeys: () => clientKey ? [clientKey.public] : authorizedKeysOf(options),
      exec: (exec) => void this.#exec(exec),
    });
  }

  get port(): number {
    return this.#port;
  }

  async start(): Promise<void> {
    this.#port = await this.#server.listen(this.#options.port ?? 0);
    this.#disks.export(true);
    if (this.#options.controlSocket) this.#control = serveControl(this.#options.controlSocket, this);
  }

  /** Runs a line as if it had come over SSH, but without latency, faults and counting. Never throws. */
  run(line: string): Promise<string> {
    return runLine(line, { ...this.#console(), before: () => Promise.resolve() });
  }

  /** Changes how long a command takes, from the next one on. Milliseconds. */
  setLatency(command: string, milliseconds: number): void {
    this.#latency.set(command, milliseconds);
  }

  state(): SimulatorState {
    return {
      disks: [...this.#disks].map((row) => this.#disks.propertiesOf(row)),
      files: [...this.#pool.entries()].filter(({ isFolder }) => !isFolder)
        .map(({ name, size, allocated }) => ({ name, size, allocated })),
      pool: { size: this.#pool.size, free: this.#pool.free },
      lines: this.#lines,
      commands: { ...this.#commands },
      connections: this.#server.connections,
      channels: this.#channels.size,
      faults: this.faults.waiting.length,
    };
  }

  /** Ends everything; the pool's folder stays, for the next start. */
  async close(): Promise<void> {
    this.#power.abort();
    await this.#server.close();
    this.#disks.export(false);
    await this.#control?.close();
  }

  #key(name: string): KeyPair {
    return keyPair(join(this.#options.poolFolder, STATE_FOLDER), name);
  }

  #makeMenus(): Menus {
    const { poolFolder, poolFs, poolLabel, version = "7.24.4 (stable)", packages, textWidth: width = 230 } =
      this.#options;
    const [pool, disks, mountPoint] = [this.#pool, this.#disks, mountPointOf(this.#options)];
    const label = (poolFs ?? "btrfs") === "btrfs" ? poolLabel ?? mountPoint : undefined;
    const used = () => [...disks].flatMap(({ file }) => file ?? []);
    const subvolumes = new Subvolumes({ pool, poolFolder, mountPoint, label, used });
    return {
      "disk": diskMenu(disks, width),
      "disk/btrfs/subvolume": subvolumeMenu(subvolumes, width),
      "file": fileMenu({ pool, disks }, { removesUsedFiles: this.#guesses.removesUsedFiles, width }),
      "system/resource": resourceMenu(version),
      "system/package": packageMenu(version, packages ?? ["routeros", "rose-storage"], width),
    };
  }

  #console(): Omit<ConsoleLine, "before"> {
    const { noRows, jsonDecimals } = this.#guesses;
    return { menus: this.#menus, policies: this.#options.policies ?? ["ssh", "read", "write"], noRows, jsonDecimals };
  }

  async #exec(exec: Exec): Promise<void> {
    this.#lines++;
    this.#channels.add(exec);
    exec.signal.addEventListener("abort", () => this.#channels.delete(exec));
    if (this.#channels.size > this.#guesses.maxChannels) return;
    const power = this.#power.signal;
    try {
      const output = await runLine(exec.line, {
        ...this.#console(),
        started: (commands) => this.#moment("before", commands, exec, power),
        before: (command) => this.#before(command, exec, power),
        ended: (commands, output) => this.#moment("after", commands, exec, power, output),
      });
      exec.answer(output);
    } catch (error) {
      if (!power.aborted && !exec.signal.aborted) log.error("the simulator dropped a line", { error });
    }
  }

  /** What may happen before or after a line: a cut or a hang. */
  async #moment(
    when: "before" | "after",
    commands: readonly string[],
    exec: Exec,
    power: AbortSignal,
    output = "",
  ): Promise<void> {
    if (when === "before") await take(this.#latency.get("line"), AbortSignal.any([power, exec.signal]));
    const half = when === "after" && this.faults.take("answer", commands);
    const fault = half || this.faults.take(when, commands);
    if (fault?.action === "cut") exec.cut(half ? output.slice(0, Math.ceil(output.length / 2)) : "");
    if (fault) await never(AbortSignal.any([power, exec.signal]));
  }

  /** What happens as a command begins, and how long it takes. */
  async #before(command: string, exec: Exec, power: AbortSignal): Promise<string | undefined> {
    if (exec.signal.aborted) throw new Error("the channel has ended");
    this.#commands[command] = (this.#commands[command] ?? 0) + 1;
    const alive = this.#guesses.outlivesChannel ? power : AbortSignal.any([power, exec.signal]);
    const fault = this.faults.take("middle", [command]);
    if (fault?.action === "cut") exec.cut();
    if (fault?.action === "hang") await never(alive);
    const verb = command.split(" ").at(-1) ?? "";
    await take(this.#latency.get(command) ?? this.#latency.get(verb), alive);
    return fault?.action === "error" ? fault.text : undefined;
  }

  async #reboot(milliseconds: number): Promise<void> {
    this.#power.abort();
    await this.#server.close();
    this.#disks.export(false);
    this.#power = new AbortController();
    const { signal } = this.#power;
    await pause(milliseconds, signal);
    await this.#server.listen(this.#port);
    this.#disks.renewExports();
    await pause(this.#guesses.exportsBackAfter, signal);
    this.#disks.export(true);
  }
}

/** Takes its time, if any; then nothing happens any more when the signal has aborted. */
async function take(milliseconds = 0, signal: AbortSignal): Promise<void> {
  if (milliseconds > 0) await pause(milliseconds, signal);
  throwIfAborted(signal);
}

function never(signal: AbortSignal): Promise<never> {
  return abortable(new Promise<never>(() => {}), signal);
}

function mountPointOf({ mountPoint = "storage-pool" }: SimulatorOptions): string {
  if (/^[A-Za-z0-9._-]+$/.test(mountPoint)) return mountPoint;
  throw new FailedPrecondition(`the pool's mount point '${mountPoint}' must be one name without slashes`);
}

function exporterOf({ exporter, exportsDir, host }: SimulatorOptions): Exporter {
  if (exporter !== "loop") return noExporter;
  if (exportsDir) return new LoopExporter(exportsDir, host ?? "127.0.0.1");
  throw new FailedPrecondition("the exporter 'loop' needs a folder to show its exports in: set exportsDir");
}

function authorizedKeysOf({ authorizedKeys = [], authorizedKeysFile }: SimulatorOptions): string[] {
  const inFile = authorizedKeysFile ? Deno.readTextFileSync(authorizedKeysFile).split("\n") : [];
  return [...authorizedKeys, ...inFile].map((line) => line.trim()).filter((line) => line && !line.startsWith("#"));
}

/** Puts the pool's own row and the foreign ones there. */
function plantRows(disks: Disks, options: SimulatorOptions): void {
  const { poolSlot = "raid1", poolSize = 100 * 1024 ** 3, poolFs = "btrfs", poolLabel, foreignDisks = [] } = options;
  const mountPoint = mountPointOf(options);
  disks.plant(poolSlot, {
    "type": "raid",
    "fs-label": poolLabel ?? mountPoint,
    "fs-uuid": "5f1c2a9e-6d0b-4c6e-9a63-1f0f7d1c2b3a",
    "fs": poolFs,
    "size": poolSize,
    "free": "pool",
    "use": "",
    "mount-point": mountPoint,
    "raid-type": "6",
    "state": "clean",
  });
  for (const { slot, ...properties } of foreignDisks) {
    if ([...disks].some((row) => row.slot === slot)) continue;
    if (properties["type"] !== "file") disks.plant(String(slot), properties as { type: string });
    else disks.add(foreignFile(String(slot), properties));
  }
}

function foreignFile(slot: string, properties: Record<string, string | number | boolean>): Parameters<Disks["add"]>[0] {
  const nqn = properties["nvme-tcp-server-nqn"];
  return {
    slot,
    file: String(properties["file-path"]).replace(/^\//, ""),
    size: Number(properties["size"] ?? 1024 ** 3),
    exported: properties["nvme-tcp-export"] === true || properties["nvme-tcp-export"] === "yes",
    mountFilesystem: properties["mount-filesystem"] === true || properties["mount-filesystem"] === "yes",
    comment: String(properties["comment"] ?? ""),
    ...(nqn === undefined ? {} : { nqn: String(nqn) }),
  };
}
