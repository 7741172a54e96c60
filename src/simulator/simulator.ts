import { join } from "node:path";
import { pause } from "../runtime/deadline.ts";
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
import { NvmetExporter } from "./nvmet_exporter.ts";
import type { SimulatorOptions } from "./options.ts";
import { mountPointOf, plantRows } from "./planted_rows.ts";
import { Pool, STATE_FOLDER } from "./pool.ts";
import { Sessions } from "./sessions.ts";
import { SshServer } from "./ssh_server.ts";
import { type Decided, Disks } from "./store.ts";
import { Subvolumes } from "./subvolumes.ts";
import type { Row } from "./values.ts";

/** What a simulator holds and has done. */
export interface SimulatorState {
  disks: Row[];
  /** NQNs that hosts can reach now, in the order in which they came. */
  exports: string[];
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
  renamesExports: false,
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
  failureStatus: 0,
  failuresOnStderr: false,
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
  readonly #pool: Pool;
  readonly #disks: Disks;
  readonly #console: Omit<ConsoleLine, "before">;
  readonly #sessions: Sessions;
  readonly #server: SshServer;
  #port = 0;
  #control: { close(): Promise<void> } | undefined;

  constructor(options: SimulatorOptions) {
    this.#options = options;
    this.#guesses = { ...guessDefaults, ...options.guesses };
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
    const { noRows, jsonDecimals, maxChannels, outlivesChannel, failureStatus, failuresOnStderr } = this.#guesses;
    const policies = options.policies ?? ["ssh", "read", "write"];
    this.#console = { menus: this.#makeMenus(), policies, noRows, jsonDecimals };
    plantRows(this.#disks, options);
    const hostKey = this.#key("host_key");
    const clientKey = options.authorizedKeys || options.authorizedKeysFile ? undefined : this.#key("client_key");
    this.host = options.host ?? "127.0.0.1";
    this.hostKey = hostKey.public;
    this.fingerprint = fingerprintOf(hostKey.public);
    this.clientKeyFile = clientKey?.file;
    this.faults = new Faults((milliseconds) => this.#reboot(milliseconds), options.faults);
    this.#sessions = new Sessions({
      console: this.#console,
      faults: this.faults,
      latency: options.latency ?? {},
      maxChannels,
      outlivesChannel,
      failureStatus,
      failuresOnStderr,
    });
    this.#server = new SshServer({
      host: this.host,
      hostKey: hostKey.private,
      user: options.user,
      authorizedKeys: () => clientKey ? [clientKey.public] : authorizedKeysOf(options),
      exec: (exec) => void this.#sessions.run(exec),
    });
  }

  get port(): number {
    return this.#port;
  }

  async start(): Promise<void> {
    this.#port = await this.#server.listen(this.#options.port ?? 0);
    const back = this.#exportsBack(this.#sessions.begin());
    if (this.#guesses.exportsBackAfter === 0) await back;
    else back.catch((error) => log.info("the exports do not come back", { error }));
    if (this.#options.controlSocket) this.#control = serveControl(this.#options.controlSocket, this);
  }

  /** Runs a line as if it had come over SSH, but without latency, faults and counting. Never throws. */
  run(line: string): Promise<string> {
    return runLine(line, { ...this.#console, before: () => Promise.resolve() });
  }

  /** Changes how long a command takes, from the next one on. Milliseconds. */
  setLatency(command: string, milliseconds: number): void {
    this.#sessions.latency.set(command, milliseconds);
  }

  state(): SimulatorState {
    return {
      disks: [...this.#disks].map((row) => this.#disks.propertiesOf(row)),
      exports: this.#disks.exports,
      files: [...this.#pool.entries()].filter(({ isFolder }) => !isFolder)
        .map(({ name, size, allocated }) => ({ name, size, allocated })),
      pool: { size: this.#pool.size, free: this.#pool.free },
      lines: this.#sessions.lines,
      commands: Object.fromEntries(this.#sessions.commands),
      connections: this.#server.connections,
      channels: this.#sessions.channels,
      faults: this.faults.waiting.length,
    };
  }

  /** Ends everything; the pool's folder stays, for the next start. */
  async close(): Promise<void> {
    this.#sessions.stop();
    await this.#server.close();
    this.#disks.close();
    await this.#control?.close();
    this.#control = undefined;
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

  async #reboot(milliseconds: number): Promise<void> {
    this.#sessions.stop();
    await this.#server.close();
    this.#disks.export(false);
    const signal = this.#sessions.begin();
    await pause(milliseconds, signal);
    await this.#server.listen(this.#port);
    await this.#exportsBack(signal);
  }

  async #exportsBack(signal: AbortSignal): Promise<void> {
    if (this.#guesses.exportsBackAfter > 0) {
      this.#disks.openPorts();
      await pause(this.#guesses.exportsBackAfter, signal);
    }
    this.#disks.export(true);
  }
}

function exporterOf(options: SimulatorOptions): Exporter {
  const { exporter = "none", exportsDir, nvmetRoot, poolFolder, host = "127.0.0.1" } = options;
  const growsOnConnect = options.guesses?.growth === "reconnect";
  switch (exporter) {
    case "none":
      return noExporter;
    case "loop":
      if (exportsDir) return new LoopExporter(exportsDir, host);
      throw new FailedPrecondition("the exporter 'loop' needs a folder to show its exports in: set exportsDir");
    case "nvmet":
      if (nvmetRoot) return new NvmetExporter({ root: nvmetRoot, host, poolFolder, growsOnConnect });
      throw new FailedPrecondition("the exporter 'nvmet' needs the kernel's folder nvmet in configfs: set nvmetRoot");
  }
}

function authorizedKeysOf({ authorizedKeys = [], authorizedKeysFile }: SimulatorOptions): string[] {
  const inFile = authorizedKeysFile ? Deno.readTextFileSync(authorizedKeysFile).split("\n") : [];
  return [...authorizedKeys, ...inFile].map((line) => line.trim()).filter((line) => line && !line.startsWith("#"));
}
