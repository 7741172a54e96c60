import { join } from "node:path";

/** A port of the kernel's NVMe target. The kernel listens on it while a subsystem is linked to it. */
export class NvmetPort {
  readonly #root: string;
  readonly #host: string;
  readonly #number: number;
  readonly #run: (program: string, args: readonly string[]) => string;

  /** @param options.root the folder `nvmet` in configfs */
  constructor(
    options: { root: string; host: string; number: number; run: (program: string, args: readonly string[]) => string },
  ) {
    this.#root = options.root;
    this.#host = options.host;
    this.#number = options.number;
    this.#run = options.run;
  }

  /** Lets hosts reach a subsystem at the port. */
  link(nqn: string): void {
    this.#make();
    // Deno makes symbolic links only for a program that may read and write everything.
    this.#run("ln", ["-s", join(this.#root, "subsystems", nqn), join(this.#links, nqn)]);
    this.#close();
  }

  /** Cuts all sessions of a subsystem at the port, and refuses them from now on. The last one takes the port with it. */
  unlink(nqn: string): void {
    const link = join(this.#links, nqn);
    if (isThere(link)) Deno.removeSync(link);
    if (isThere(this.#folder) && [...Deno.readDirSync(this.#links)].length === 0) Deno.removeSync(this.#folder);
  }

  /** Listens without any export: with a subsystem that admits nobody. It goes when the first export comes. */
  open(): void {
    this.#make();
    const subsystem = this.#placeholder;
    if (!isThere(subsystem)) Deno.mkdirSync(subsystem);
    const link = join(this.#links, this.#placeholderName);
    if (!isThere(link)) this.#run("ln", ["-s", subsystem, link]);
  }

  #close(): void {
    if (!isThere(this.#placeholder)) return;
    this.unlink(this.#placeholderName);
    Deno.removeSync(this.#placeholder);
  }

  #make(): void {
    if (isThere(this.#folder)) return;
    Deno.mkdirSync(this.#folder);
    const values = { trtype: "tcp", adrfam: "ipv4", traddr: this.#host, trsvcid: String(this.#number) };
    for (const [name, value] of Object.entries(values)) {
      Deno.writeTextFileSync(join(this.#folder, `addr_${name}`), value);
    }
  }

  get #placeholderName(): string {
    return `rds-csi-simulator-${this.#number}`;
  }

  get #placeholder(): string {
    return join(this.#root, "subsystems", this.#placeholderName);
  }

  get #folder(): string {
    return join(this.#root, "ports", String(this.#number));
  }

  get #links(): string {
    return join(this.#folder, "subsystems");
  }
}

function isThere(path: string): boolean {
  try {
    Deno.lstatSync(path);
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}
