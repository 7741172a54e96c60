import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { join } from "node:path";
import { messageOf } from "../runtime/errors.ts";
import { log } from "../runtime/log.ts";
import type { Export, Exporter } from "./exporter.ts";
import { onConnects } from "./nvmet_connects.ts";
import { NvmetPort } from "./nvmet_port.ts";

/** Milliseconds that `losetup` or `ln` may take: the exporter's calls cannot wait any other way. */
const PATIENCE = 20_000;

interface Shown {
  loop: string;
  port: number;
  /** Bytes of the file, and those that the loop device shows. */
  size: number;
  seen: number;
}

/** What a {@linkcode NvmetExporter} works with. */
export interface NvmetOptions {
  /** The kernel's folder `nvmet` in configfs, wherever that is mounted. */
  root: string;
  /** IPv4 address that ports listen on. */
  host: string;
  /** The pool's folder: what lies over a file of it is this exporter's. */
  poolFolder: string;
  /** A growth that connected hosts are not to see is shown when the next host connects. */
  growsOnConnect?: boolean;
  /** Runs a program and gives its output; throws with what it said. For tests. */
  run?: (program: string, args: readonly string[]) => string;
}

/**
 * Exports disks through the kernel's NVMe target (Documentation/nvme, drivers/nvme/target/configfs.c): a subsystem with one
 * namespace over a loop device with direct I/O, since a loop device alone shows a file's growth when it is told to. It
 * touches a subsystem only when its namespace lies over a file of the pool, or when it has made it.
 */
export class NvmetExporter implements Exporter {
  readonly #root: string;
  readonly #host: string;
  readonly #run: (program: string, args: readonly string[]) => string;
  readonly #shown = new Map<string, Shown>();
  readonly #ports = new Map<number, NvmetPort>();
  #connects: { stop(): void } | undefined;

  /** Takes away what a simulator before it has left: every session of it is cut. */
  constructor({ root, host, poolFolder, growsOnConnect, run = runBounded }: NvmetOptions) {
    this.#root = root;
    this.#host = host;
    this.#run = run;
    this.#clear(`${poolFolder}/`);
    if (growsOnConnect) this.#connects = onConnects((nqn) => this.#guard(nqn, () => this.#grow(nqn)));
  }

  show(shown: Export): void {
    const { nqn, port, size, connectedSize } = shown;
    this.#guard(nqn, () => {
      const known = this.#shown.get(nqn);
      if (!known) this.#shown.set(nqn, { ...this.#add(shown), port, size, seen: size });
      else known.size = size;
      if (size === connectedSize) this.#grow(nqn);
    });
  }

  hide(nqn: string): void {
    const known = this.#shown.get(nqn);
    if (!known) return;
    this.#shown.delete(nqn);
    this.#port(known.port).unlink(nqn);
    this.#remove(nqn);
    this.#run("losetup", ["--detach", known.loop]);
  }

  open(port: number): void {
    this.#port(port).open();
  }

  close(): void {
    this.#connects?.stop();
  }

  #guard(nqn: string, work: () => void): void {
    try {
      work();
    } catch (error) {
      log.error(`hosts cannot reach ${nqn} (or do not see its size): ${messageOf(error)}`);
    }
  }

  #grow(nqn: string): void {
    const known = this.#shown.get(nqn);
    if (!known || known.seen === known.size) return;
    this.#resize(nqn, known.loop);
    known.seen = known.size;
  }

  #port(number: number): NvmetPort {
    let port = this.#ports.get(number);
    if (!port) {
      port = new NvmetPort({ root: this.#root, host: this.#host, number, run: this.#run });
      this.#ports.set(number, port);
    }
    return port;
  }

  #add({ nqn, file, port }: Export): { loop: string } {
    const subsystem = this.#subsystem(nqn);
    if (exists(subsystem)) {
      throw new Error(`${subsystem} is there already, over a file that is not the pool's: it is another program's`);
    }
    const loop = this.#run("losetup", ["--find", "--show", "--direct-io=on", file]).trim();
    try {
      Deno.mkdirSync(subsystem);
      write(subsystem, "attr_allow_any_host", "1");
      // A host that comes back after the target's reboot drops a namespace whose identity has changed.
      write(subsystem, "attr_serial", digest(nqn).slice(0, 20));
      const namespace = join(subsystem, "namespaces", "1");
      Deno.mkdirSync(namespace);
      write(namespace, "device_path", loop);
      write(namespace, "device_uuid", uuidOf(nqn));
      write(namespace, "enable", "1");
      this.#port(port).link(nqn);
    } catch (error) {
      if (exists(subsystem)) this.#remove(nqn);
      this.#run("losetup", ["--detach", loop]);
      throw error;
    }
    return { loop };
  }

  #resize(nqn: string, loop: string): void {
    this.#run("losetup", ["--set-capacity", loop]);
    const namespace = join(this.#subsystem(nqn), "namespaces", "1");
    // Connected hosts are told to look again. An older kernel has no such file, and its hosts see it at the next look.
    if (exists(join(namespace, "revalidate_size"))) write(namespace, "revalidate_size", "1");
  }

  #remove(nqn: string): void {
    const subsystem = this.#subsystem(nqn);
    const namespace = join(subsystem, "namespaces", "1");
    if (exists(namespace)) {
      write(namespace, "enable", "0");
      Deno.removeSync(namespace);
    }
    Deno.removeSync(subsystem);
  }

  #subsystem(nqn: string): string {
    return join(this.#root, "subsystems", nqn);
  }

  #clear(folder: string): void {
    const loops = this.#loopsOver(folder);
    for (const { name: nqn } of Deno.readDirSync(join(this.#root, "subsystems"))) {
      if (!loops.has(devicePathOf(this.#subsystem(nqn)))) continue;
      for (const { name } of Deno.readDirSync(join(this.#root, "ports"))) this.#port(Number(name)).unlink(nqn);
      this.#remove(nqn);
    }
    for (const loop of loops) this.#run("losetup", ["--detach", loop]);
  }

  /** The loop devices over files in the folder. */
  #loopsOver(folder: string): ReadonlySet<string> {
    const text = this.#run("losetup", ["--list", "--json", "--output", "NAME,BACK-FILE"]);
    const { loopdevices: all }: { loopdevices: { name: string; "back-file": string | null }[] } = text.trim() === ""
      ? { loopdevices: [] }
      : JSON.parse(text);
    return new Set(all.filter((each) => each["back-file"]?.startsWith(folder)).map(({ name }) => name));
  }
}

function devicePathOf(subsystem: string): string {
  try {
    return Deno.readTextFileSync(join(subsystem, "namespaces", "1", "device_path")).trim();
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return "";
    throw error;
  }
}

function write(folder: string, attribute: string, value: string): void {
  try {
    Deno.writeTextFileSync(join(folder, attribute), value);
  } catch (error) {
    throw new Error(`'${value}' cannot be written to ${folder}/${attribute}: ${messageOf(error)}`, { cause: error });
  }
}

function exists(path: string): boolean {
  try {
    Deno.lstatSync(path);
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

function digest(text: string): string {
  return createHash("sha256").update(text).digest("hex");
}

function uuidOf(nqn: string): string {
  const hex = digest(nqn);
  return [hex.slice(0, 8), hex.slice(8, 12), `5${hex.slice(13, 16)}`, `8${hex.slice(17, 20)}`, hex.slice(20, 32)].join(
    "-",
  );
}

function runBounded(program: string, args: readonly string[]): string {
  const { status, stdout, stderr, error } = spawnSync(program, [...args], {
    encoding: "utf8",
    timeout: PATIENCE,
    killSignal: "SIGKILL",
  });
  if (status === 0) return stdout;
  throw new Error(`'${program} ${args.join(" ")}' ended with ${status}: ${error?.message ?? stderr}`);
}
