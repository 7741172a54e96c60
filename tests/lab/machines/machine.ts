import { Deadline, pause, poll } from "../../../src/runtime/deadline.ts";
import { TextLineStream } from "../../../src/runtime/lines.ts";
import { fromFileUrl, project } from "../project.ts";
import { guestDenoDir } from "./deno_dir.ts";
import { Guest, GuestProcess } from "./guest.ts";
import { type GuestKernel, guestKernel } from "./kernel.ts";
import { monitor } from "./monitor.ts";
import { patient } from "./patience.ts";

/** How a machine is made. */
export interface MachineOptions {
  name: string;
  /** Where its sockets, its disk and what it is told lie: seen by the guest at the same path. */
  folder: string;
  /** QEMU's arguments for the storage network, with a device `eth1` ({@linkcode import("./network.ts").Network}). */
  network?: readonly string[];
  /** Its address there. */
  address?: string;
  /** Modules that are loaded at its start, besides what its root takes. */
  load?: readonly string[];
  /** MiB; 1024 by default. */
  memory?: number;
  /** Bytes of a disk `/dev/vda` that outlives the machine's ends. None by default. */
  disk?: number;
  /** Ports of the guest that the host reaches at {@linkcode Machine.port}. */
  ports?: readonly number[];
  /** Called whenever it has started, the first time too: what runs in it is to be started (again). */
  onUp?: (machine: Machine) => Promise<void>;
}

/** The agent's port in each guest. */
export const AGENT = 9001;
const TUNNEL = 9002;
/** Milliseconds until a machine must be up; it takes some 6 s alone on an idle host. */
const START = 300_000;
const READY = "agent ready";
/** What a kernel does for safety, and what makes code move about: each costs much under emulation. */
const CHEAP = "mitigations=off cryptomgr.notests nokaslr norandmaps init_on_alloc=0 lsm=capability tsc=reliable";
/** Lines of the console that are kept. */
const KEPT = 2000;

/** A machine with Debian's kernel, emulated, whose root is the host's with a layer of its own. Letting it go ends it. */
export class Machine implements AsyncDisposable {
  readonly name: string;
  /** Its address in the storage network. */
  readonly address: string;
  /** What it is asked by; the same over all its starts. */
  readonly guest: Guest;
  readonly #options: MachineOptions;
  readonly #kernel: GuestKernel;
  readonly #ports: ReadonlyMap<number, number>;
  readonly #console: string[] = [];
  readonly #processes = new Map<string, GuestProcess>();
  readonly #tunnels: Deno.Listener[] = [];
  #child: Deno.ChildProcess | undefined;
  #read: Promise<unknown> = Promise.resolve();
  /** How QEMU ended, once it has. */
  #ended: number | undefined;
  #readyLines = 0;

  private constructor(options: MachineOptions, kernel: GuestKernel) {
    this.name = options.name;
    this.address = options.address ?? "";
    this.#options = options;
    this.#kernel = kernel;
    const wanted = [AGENT, TUNNEL, ...options.ports ?? []];
    const free = freePorts(wanted.length);
    this.#ports = new Map(wanted.map((port, at) => [port, free[at] ?? 0]));
    this.guest = new Guest(this.name, this.port(AGENT));
  }

  /** Starts a machine and waits until it is up. */
  static async start(options: MachineOptions): Promise<Machine> {
    const machine = new Machine(options, await guestKernel());
    try {
      await machine.#prepare();
      await machine.powerOn();
    } catch (error) {
      const said = `${machine.name}: ${error instanceof Error ? error.message : error}\n${machine.report()}`;
      await machine[Symbol.asyncDispose]();
      throw new Error(said, { cause: error });
    }
    return machine;
  }

  /** The folder with what the machine is told, its disk and its sockets. */
  get folder(): string {
    return `${this.#options.folder}/${this.name}`;
  }

  /** The process number of its QEMU, when it is on. */
  get pid(): number | undefined {
    return this.#child?.pid;
  }

  /** The port of the host's loopback interface that leads to one of the guest's. */
  port(inGuest: number): number {
    const port = this.#ports.get(inGuest);
    if (port === undefined) throw new Error(`${this.name} was not started with the port ${inGuest}`);
    return port;
  }

  /** Starts a process that goes on by itself, and keeps what it writes for {@linkcode report}. */
  async start(...[name, ...rest]: Parameters<Guest["start"]>): Promise<GuestProcess> {
    const started = await this.guest.start(name, ...rest);
    this.#processes.set(`${name} ${this.#processes.size + 1}`, started);
    return started;
  }

  /** A unix socket on the host that leads to one in the guest. Every connection is a new one there. */
  tunnel(inGuest: string): string {
    const path = `${this.folder}/tunnel-${this.#tunnels.length}.sock`;
    const listener = Deno.listen({ transport: "unix", path });
    this.#tunnels.push(listener);
    void this.#serveTunnel(listener, inGuest);
    return path;
  }

  /** Pulls the cable of the storage network. */
  async cutLink(): Promise<void> {
    await this.monitor("set_link", { name: "eth1", up: false });
  }

  async restoreLink(): Promise<void> {
    await this.monitor("set_link", { name: "eth1", up: true });
  }

  /** Resets it as a short power cut does, nothing is written back before, and waits until it is up again. */
  async reset(): Promise<void> {
    const before = this.#readyLines;
    await this.monitor("system_reset");
    await this.#up(before);
  }

  /** Stops its processors; its connections stay, and nothing in it notices. */
  async freeze(): Promise<void> {
    await this.monitor("stop");
  }

  async thaw(): Promise<void> {
    await this.monitor("cont");
  }

  /** Ends it as a power cut does. Its disk stays as it is. */
  async powerOff(): Promise<void> {
    const child = this.#child;
    if (!child) return;
    if (this.#ended === undefined) child.kill("SIGKILL");
    await child.status;
    await this.#read;
    this.#child = undefined;
  }

  /** Starts it (again), and waits until it is up. */
  async powerOn(): Promise<void> {
    const before = this.#readyLines;
    const child = new Deno.Command("setpriv", {
      args: ["--pdeathsig", "KILL", "qemu-system-x86_64", ...this.#arguments()],
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    this.#child = child;
    this.#ended = undefined;
    child.status.then(({ code }) => this.#ended = code);
    this.#read = Promise.all([this.#collect(child.stdout), this.#collect(child.stderr)]);
    await this.#up(before);
  }

  /** Has a command of QEMU's monitor done. */
  async monitor(command: string, args: Record<string, unknown> = {}): Promise<unknown> {
    return await monitor(`${this.folder}/monitor.sock`, command, args);
  }

  /** What its console showed and its processes wrote: their last lines. */
  report(lines = 60): string {
    const parts = [`--- ${this.name}, console\n${this.#console.slice(-lines).join("\n")}`];
    for (const [name, { output }] of this.#processes) {
      parts.push(`--- ${this.name}, ${name}\n${output.split("\n").slice(-lines).join("\n")}`);
    }
    return parts.join("\n");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const listener of this.#tunnels) listener.close();
    await this.powerOff();
  }

  async #prepare(): Promise<void> {
    const { name, address, load, disk } = this.#options;
    await Deno.mkdir(this.folder, { recursive: true });
    await Deno.copyFile(new URL("boot.sh", import.meta.url), `${this.folder}/boot.sh`);
    const settings = {
      name,
      address: address ?? "",
      load: (load ?? []).join(" "),
      modules: this.#kernel.modules,
      release: this.#kernel.release,
      busybox: this.#kernel.busybox,
      uuid: await uuidOf(name),
      deno: Deno.execPath(),
      denoDir: await guestDenoDir(this.#options.folder),
      project: fromFileUrl(project).replace(/\/$/, ""),
      agentPort: AGENT,
      tunnelPort: TUNNEL,
    };
    const text = Object.entries(settings).map(([key, value]) => `${key}='${value}'\n`).join("");
    await Deno.writeTextFile(`${this.folder}/settings`, text);
    if (disk) await Deno.truncate(await newFile(this.#disk), disk);
  }

  get #disk(): string {
    return `${this.folder}/disk.img`;
  }

  #arguments(): string[] {
    const { memory = 1024, network = [], disk } = this.#options;
    const forwards = [...this.#ports].map(([inGuest, port]) => `,hostfwd=tcp:127.0.0.1:${port}-:${inGuest}`).join("");
    const { kernel, initramfs } = this.#kernel;
    const append = `${CHEAP} console=ttyS0 quiet panic=-1 no_timer_check random.trust_cpu=on machine=${this.folder}`;
    const drive = `if=none,id=disk,file=${this.#disk},format=raw,cache=unsafe,discard=unmap`;
    return [
      ...[
        "-machine",
        "q35",
        "-accel",
        "tcg,thread=multi",
        "-cpu",
        "Nehalem,+rdrand",
        "-smp",
        "2",
        "-m",
        String(memory),
      ],
      ...["-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio"],
      ...["-kernel", kernel, "-initrd", initramfs, "-append", append],
      ...["-qmp", `unix:${this.folder}/monitor.sock,server=on,wait=off`],
      ...["-virtfs", "local,path=/,mount_tag=hostroot,security_model=none,readonly=on,multidevs=remap"],
      ...["-netdev", `user,id=user${forwards}`, "-device", "virtio-net-pci,id=eth0,netdev=user,romfile="],
      ...network,
      ...(disk ? ["-drive", drive, "-device", "virtio-blk-pci,drive=disk"] : []),
    ];
  }

  /** Waits for one more sign of the agent, and starts what belongs into the machine. */
  async #up(before: number): Promise<void> {
    using deadline = new Deadline(patient(START), `${this.name} to be up`);
    const { signal } = deadline;
    await poll(() => {
      if (this.#ended !== undefined) throw new Error(`the QEMU of ${this.name} ended with ${this.#ended}`);
      return this.#readyLines > before || undefined;
    }, { signal });
    await poll(async () => {
      const booted = await this.guest.run("test", ["-e", "/run/booted"]).catch(() => undefined);
      return booted?.code === 0 || undefined;
    }, { signal, interval: 100 });
    await this.#options.onUp?.(this);
  }

  async #collect(stream: ReadableStream<Uint8Array<ArrayBuffer>>): Promise<void> {
    for await (const line of stream.pipeThrough(new TextDecoderStream()).pipeThrough(new TextLineStream())) {
      if (line.trim() === "") continue;
      if (line.includes(READY)) this.#readyLines++;
      this.#console.push(line.trimEnd());
      if (this.#console.length > KEPT) this.#console.shift();
    }
  }

  async #serveTunnel(listener: Deno.Listener, inGuest: string): Promise<void> {
    for await (const near of listener) void this.#join(near, inGuest).catch(() => {}).finally(() => end(near));
  }

  async #join(near: Deno.Conn, inGuest: string): Promise<void> {
    const far = await Deno.connect({ hostname: "127.0.0.1", port: this.port(TUNNEL) });
    far.setNoDelay();
    try {
      await far.write(new TextEncoder().encode(`${inGuest}\n`));
      // Whichever side ends first ends both: a half of a connection is of no use to gRPC.
      await Promise.race([near.readable.pipeTo(far.writable), far.readable.pipeTo(near.writable)]);
      await pause(0);
    } finally {
      end(far);
    }
  }
}

function end(connection: Deno.Conn): void {
  try {
    connection.close();
  } catch {
    // Its streams have closed it already.
  }
}

async function newFile(path: string): Promise<string> {
  await Deno.writeFile(path, new Uint8Array());
  return path;
}

/** A number of the machine's own, the same at every start. */
async function uuidOf(name: string): Promise<string> {
  const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(name));
  const hex = new Uint8Array(digest).toHex();
  return [hex.slice(0, 8), hex.slice(8, 12), `4${hex.slice(13, 16)}`, `8${hex.slice(17, 20)}`, hex.slice(20, 32)].join(
    "-",
  );
}

/** Ports that nobody has now. */
function freePorts(count: number): number[] {
  const listeners = Array.from({ length: count }, () => Deno.listen({ hostname: "127.0.0.1", port: 0 }));
  const ports = listeners.map((listener) => listener.addr.port);
  for (const listener of listeners) listener.close();
  return ports;
}
