import { abortable, Deadline, pause, reasonOf } from "./deadline.ts";
import { FailedPrecondition, messageOf, TimedOut } from "./errors.ts";

/** Bytes of each output that are kept by default: a checker that finds something in every block must not fill the memory. */
const keptBytes = 64 * 1024;

/** What a finished program left. */
export interface Output {
  code: number;
  /** The first 64 KiB of each output, or as many bytes as {@linkcode RunOptions.keep} says. */
  stdout: string;
  stderr: string;
}

/** How a program is run. */
export interface RunOptions {
  /** Milliseconds until the program is ended. */
  deadline: number;
  /** The caller's signal: ends the program too. */
  signal?: AbortSignal | undefined;
  env?: Record<string, string> | undefined;
  /** How many bytes of each output are kept; the rest is read and dropped. */
  keep?: number | undefined;
}

/** The program asked for is not there. */
export class NotInstalled extends FailedPrecondition {}

/** Programs that were sent KILL and did not end: they hang in the kernel. */
export class Stuck extends TimedOut {
  /** Settles when the program has ended after all. */
  readonly ended: Promise<unknown>;
  constructor(message: string, ended: Promise<unknown>) {
    super(message);
    this.ended = ended;
  }
}

/**
 * Runs external programs, each with a deadline that holds: at the deadline (or when the caller goes) the program gets
 * TERM, then KILL; one that cannot die is left alone and counted, and nothing waits for it (a child in an uninterruptible
 * wait of the kernel ignores KILL, and its output never ends).
 */
export class Commands {
  readonly #grace: number;
  #running = 0;
  #stuck = 0;

  /** @param grace milliseconds from TERM to KILL, from KILL to giving the child up, and for the output after its end */
  constructor(grace = 1000) {
    this.#grace = grace;
  }

  /** Programs under way now. */
  get running(): number {
    return this.#running;
  }
  /** Programs that could not be ended and still exist. */
  get stuck(): number {
    return this.#stuck;
  }

  /**
   * Runs a program to its end, whatever its exit code.
   * @throws {TimedOut} at the deadline; {@linkcode Stuck} when not even KILL ended it
   * @throws {NotInstalled} when there is no such program
   */
  async run(program: string, args: readonly string[], options: RunOptions): Promise<Output> {
    using deadline = new Deadline(options.deadline, `'${program} ${args.join(" ")}'`, options.signal);
    if (deadline.signal.aborted) throw reasonOf(deadline.signal);
    const child = spawn(program, args, options);
    const output = this.#collect(child, options.keep ?? keptBytes);
    try {
      return await abortable(output, deadline.signal);
    } catch (error) {
      if (deadline.signal.aborted) await this.#end(program, child, output, error);
      throw error;
    }
  }

  async #collect(child: Deno.ChildProcess, keep: number): Promise<Output> {
    this.#running++;
    const streams = [new Collected(child.stdout, keep), new Collected(child.stderr, keep)] as const;
    try {
      const { code } = await child.status;
      // A grandchild that went into the background may hold the pipes for ever: nobody waits for it.
      await Promise.race([Promise.all(streams.map((stream) => stream.done)), pause(this.#grace)]);
      return { code, stdout: streams[0].text, stderr: streams[1].text };
    } finally {
      this.#running--;
      for (const stream of streams) stream.close();
    }
  }

  /** Ends a child that is past its deadline: returns when it is gone, throws {@linkcode Stuck} when it stays. */
  async #end(program: string, child: Deno.ChildProcess, output: Promise<unknown>, why: unknown): Promise<void> {
    for (const signal of ["SIGTERM", "SIGKILL"] as const) {
      try {
        child.kill(signal);
      } catch {
        // It has ended in the meantime.
      }
      const ended = await Promise.race([child.status.then(() => true), pause(this.#grace).then(() => false)]);
      if (ended) {
        await output.catch(() => {});
        return;
      }
    }
    this.#stuck++;
    child.unref();
    output.catch(() => {});
    const ended = child.status.finally(() => this.#stuck--);
    throw new Stuck(
      `${messageOf(why)}; process ${child.pid} (${program}) ignores SIGKILL, so it hangs in the kernel. ` +
        "It is left alone; look at the state of the volume's NVMe session ('nvme list-subsys')",
      ended,
    );
  }
}

function spawn(program: string, args: readonly string[], options: RunOptions): Deno.ChildProcess {
  try {
    return new Deno.Command(program, {
      args: [...args],
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
      env: { LC_ALL: "C", ...options.env }, // What programs say is read, and must not depend on the host's language.
    }).spawn();
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    throw new NotInstalled(
      `the program '${program}' is not installed: install the package that has it, or use the driver's image`,
      { cause: error },
    );
  }
}

/** The beginning of what comes out of a pipe, as far as it has come. */
class Collected {
  readonly #reader: ReadableStreamDefaultReader<Uint8Array>;
  readonly #decoder = new TextDecoder();
  readonly done: Promise<void>;
  text = "";
  #room: number;

  constructor(stream: ReadableStream<Uint8Array>, room: number) {
    this.#room = room;
    this.#reader = stream.getReader();
    this.done = this.#read();
    this.done.catch(() => {}); // Who waits for it may come late; a rejection that nobody sees ends the process.
  }

  async #read(): Promise<void> {
    for (let part = await this.#reader.read(); !part.done; part = await this.#reader.read()) {
      const kept = part.value.subarray(0, this.#room);
      this.#room -= kept.length;
      this.text += this.#decoder.decode(kept, { stream: true });
    }
  }

  close(): void {
    this.#reader.cancel().catch(() => {});
  }
}
