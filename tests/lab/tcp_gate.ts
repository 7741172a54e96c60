/** Stands before a port of the loopback interface and lets connections through, or does not. Letting it go closes it. */
export class TcpGate implements AsyncDisposable {
  /** Where it listens: the same port for as long as it lives. */
  readonly port: number;
  readonly #target: number;
  readonly #open = new Set<Deno.Conn>();
  #listener: Deno.TcpListener | undefined;
  #accepting: Promise<void> = Promise.resolve();

  constructor(target: number) {
    this.#target = target;
    this.port = this.#listen(0);
  }

  /** Cuts what is connected and refuses what comes, until {@linkcode open}. */
  async close(): Promise<void> {
    this.#listener?.close();
    this.#listener = undefined;
    await this.#accepting;
    this.#open.forEach(end);
  }

  /** Lets connections through again. */
  open(): void {
    if (!this.#listener) this.#listen(this.port);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #listen(port: number): number {
    const listener = Deno.listen({ hostname: "127.0.0.1", port });
    this.#listener = listener;
    this.#accepting = this.#accept(listener);
    return listener.addr.port;
  }

  async #accept(listener: Deno.TcpListener): Promise<void> {
    for await (const connection of listener) void this.#join(connection).catch(() => end(connection));
  }

  async #join(near: Deno.TcpConn): Promise<void> {
    this.#open.add(near);
    const far = await Deno.connect({ hostname: "127.0.0.1", port: this.#target });
    // The gate may have been closed meanwhile.
    if (!this.#open.add(far).has(near) || !this.#listener) return [near, far].forEach(end);
    near.setNoDelay();
    far.setNoDelay();
    await Promise.allSettled([near.readable.pipeTo(far.writable), far.readable.pipeTo(near.writable)]);
    for (const each of [near, far]) {
      this.#open.delete(each);
      end(each);
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
