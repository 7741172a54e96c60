import { run, type StandIn } from "./stand_in.ts";

/** What the simulator's exporter does for the stand-in of nvme-cli, without a simulator: a port and export files. */
export class ExportServer implements Disposable {
  readonly #standIn: StandIn;
  readonly #listener: Deno.TcpListener;

  constructor(standIn: StandIn) {
    this.#standIn = standIn;
    this.#listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    this.#accept();
  }

  get port(): number {
    return this.#listener.addr.port;
  }

  /** The file behind an NQN. */
  file(nqn: string): string {
    return `${this.#standIn.folder}/${encodeURIComponent(nqn)}.img`;
  }

  /** Exports `size` bytes under an NQN, or changes the size. `seen`: what connected nodes see of it. */
  async offer(nqn: string, size: number, options: { seen?: number } = {}): Promise<void> {
    const file = this.file(nqn);
    await run("truncate", "-s", String(size), file);
    const description = { nqn, port: this.port, file, size, connectedSize: options.seen ?? size };
    await Deno.writeTextFile(this.#export(nqn), JSON.stringify(description));
  }

  /** Takes an export away. Its file stays. */
  async withdraw(nqn: string): Promise<void> {
    await Deno.remove(this.#export(nqn));
  }

  [Symbol.dispose](): void {
    this.#listener.close();
  }

  #export(nqn: string): string {
    return `${this.#standIn.exports}/${encodeURIComponent(nqn)}`;
  }

  async #accept(): Promise<void> {
    for await (const connection of this.#listener) connection.close();
  }
}
