import { pause } from "../../../src/runtime/deadline.ts";
import { Program, type ProgramOptions } from "./program.ts";

/** Milliseconds until what has ended is started again. */
const BACK_OFF = 500;

/** A program that is started again whenever it ends, as the kubelet does with a container, until it is let go. */
export class KeptProgram implements AsyncDisposable {
  readonly name: string;
  readonly #options: ProgramOptions;
  readonly #stopping = new AbortController();
  readonly #before: string[] = [];
  readonly #kept: Promise<void>;
  #program: Program;

  constructor(options: ProgramOptions) {
    this.name = options.name;
    this.#options = options;
    this.#program = new Program(options);
    this.#kept = this.#keep();
  }

  /** How often it was started again. */
  get restarts(): number {
    return this.#before.length;
  }

  /** What it has written, in all its lives. */
  get output(): string {
    return [...this.#before, this.#program.output].join("\n");
  }

  /** Ends its life, not the keeping: it is started again. */
  kill(signal: Deno.Signal): void {
    this.#program.kill(signal);
  }

  /** Ends it for good, with a signal: KILL, or TERM with KILL for one that does not heed it within 5 s. */
  async stop(signal: "SIGTERM" | "SIGKILL" = "SIGTERM"): Promise<void> {
    this.#stopping.abort();
    if (signal === "SIGKILL") this.#program.kill(signal);
    await this.#program.stop();
    await this.#kept;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop();
  }

  async #keep(): Promise<void> {
    const { signal } = this.#stopping;
    for (;;) {
      await this.#program.ended;
      if (signal.aborted) return;
      await pause(BACK_OFF, signal).catch(() => {});
      if (signal.aborted) return;
      this.#before.push(`${this.#program.output}\n(started again)`);
      this.#program = new Program(this.#options);
    }
  }
}
