import { TextLineStream } from "../../../src/runtime/lines.ts";

/** How a program is started. */
export interface ProgramOptions {
  /** What people call it. */
  name: string;
  /** Its path. */
  path: string;
  args: readonly string[];
  /** Where it runs. */
  folder: string;
  env?: Readonly<Record<string, string>>;
}

/** Lines of output that are kept. */
const KEPT = 5000;

/** A program that runs until it is let go. */
export class Program implements AsyncDisposable {
  readonly name: string;
  readonly #child: Deno.ChildProcess;
  readonly #lines: string[] = [];
  readonly #read: Promise<unknown>;
  #ended: Deno.CommandStatus | undefined;

  constructor(options: ProgramOptions) {
    this.name = options.name;
    this.#child = new Deno.Command(options.path, {
      args: [...options.args],
      cwd: options.folder,
      env: { ...options.env },
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    this.#read = Promise.all([this.#collect(this.#child.stdout), this.#collect(this.#child.stderr)]);
    this.#child.status.then((status) => this.#ended = status);
  }

  get pid(): number {
    return this.#child.pid;
  }

  /** What it has written, its last 5,000 lines. */
  get output(): string {
    return this.#lines.join("\n");
  }

  /** Resolves when it has ended and all that it wrote is read. */
  get ended(): Promise<unknown> {
    return this.#child.status.then(() => this.#read);
  }

  /** @throws with the end of its output, when it has ended */
  assertRunning(): void {
    if (!this.#ended) return;
    const tail = this.#lines.slice(-20).join("\n");
    throw new Error(`${this.name} ended with status ${this.#ended.code}; it wrote:\n${tail}`);
  }

  /** Sends a signal, unless it has ended. */
  kill(signal: Deno.Signal): void {
    if (!this.#ended) this.#child.kill(signal);
  }

  /** Ends it with TERM, and with KILL when it is still there after `grace` milliseconds. */
  async stop(grace = 5000): Promise<void> {
    this.kill("SIGTERM");
    const timer = setTimeout(() => this.kill("SIGKILL"), grace);
    await this.#child.status;
    clearTimeout(timer);
    await this.#read;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }

  async #collect(stream: ReadableStream<Uint8Array<ArrayBuffer>>): Promise<void> {
    for await (const line of stream.pipeThrough(new TextDecoderStream()).pipeThrough(new TextLineStream())) {
      this.#lines.push(line);
      if (this.#lines.length > KEPT) this.#lines.shift();
    }
  }
}
