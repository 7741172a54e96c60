import { join } from "node:path";
import { log } from "../runtime/log.ts";
import { writeAtomically } from "./row_files.ts";

/** A disk that is exported. */
export interface Export {
  nqn: string;
  port: number;
  /** The real path of its file. */
  file: string;
  /** Bytes that a new connection sees. */
  size: number;
  /** Bytes that a connection sees which was there before the disk grew. */
  connectedSize: number;
  /** When the export was turned on: milliseconds since 1970. */
  generationTime: number;
}

/** Makes exports reachable. Both calls may come again for what is so already. */
export interface Exporter {
  /** Shows an export, or what has changed about it. */
  show(shown: Export): void;
  hide(nqn: string): void;
  /** Lets hosts find a port open before any export is behind it. An exporter that cannot has none. */
  open?(port: number): void;
  close?(): void;
}

/** Shows nothing to anybody. */
export const noExporter: Exporter = { show() {}, hide() {} };

/**
 * Keeps a file for each export, named by `encodeURIComponent(nqn)`, for a stand-in of nvme-cli on the same machine, and lets
 * hosts find the port open, as a target's is.
 */
export class LoopExporter implements Exporter {
  readonly #folder: string;
  readonly #host: string;
  readonly #ports = new Map<number, { nqns: Set<string>; listener: Deno.TcpListener }>();

  constructor(folder: string, host: string) {
    Deno.mkdirSync(folder, { recursive: true });
    this.#folder = folder;
    this.#host = host;
    for (const entry of Deno.readDirSync(folder)) {
      if (decodeURIComponent(entry.name).startsWith("nqn.")) Deno.removeSync(join(folder, entry.name));
    }
  }

  show(shown: Export): void {
    this.#open(shown.port, shown.nqn);
    writeAtomically(this.#pathOf(shown.nqn), JSON.stringify(shown));
  }

  hide(nqn: string): void {
    for (const [port, { nqns, listener }] of this.#ports) {
      if (!nqns.delete(nqn) || nqns.size > 0) continue;
      listener.close();
      this.#ports.delete(port);
    }
    try {
      Deno.removeSync(this.#pathOf(nqn));
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    }
  }

  #open(port: number, nqn: string): void {
    const known = this.#ports.get(port);
    if (known) return void known.nqns.add(nqn);
    try {
      const listener = Deno.listen({ hostname: this.#host, port });
      this.#ports.set(port, { nqns: new Set([nqn]), listener });
      refuseAll(listener);
    } catch (error) {
      log.warn(`port ${port} cannot be listened on, so hosts may find ${nqn} unreachable`, { error });
    }
  }

  #pathOf(nqn: string): string {
    return join(this.#folder, encodeURIComponent(nqn));
  }
}

/** Nobody speaks NVMe here: a connection is accepted, which is all that a look at the port wants, and closed. */
async function refuseAll(listener: Deno.TcpListener): Promise<void> {
  for await (const connection of listener) connection.close();
}
