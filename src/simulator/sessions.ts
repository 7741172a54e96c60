import { abortable, pause, throwIfAborted } from "../runtime/deadline.ts";
import { log } from "../runtime/log.ts";
import { type ConsoleLine, runLine } from "./console.ts";
import type { Faults } from "./faults.ts";
import type { Answer, Exec } from "./ssh_server.ts";
import { ConsoleError } from "./syntax.ts";

/** What {@linkcode Sessions} needs. */
export interface SessionsOptions {
  console: Omit<ConsoleLine, "before">;
  faults: Faults;
  /** Milliseconds by command. */
  latency: Readonly<Record<string, number>>;
  maxChannels: number;
  outlivesChannel: boolean;
  failureStatus: number;
  failuresOnStderr: boolean;
}

/** Runs the lines of all channels: counts them, takes time, and lets happen what is to go wrong. */
export class Sessions {
  /** Lines that came. */
  lines = 0;
  /** How often each command began. */
  readonly commands = new Map<string, number>();
  /** Milliseconds by command; may be changed. */
  readonly latency: Map<string, number>;
  readonly #options: SessionsOptions;
  readonly #channels = new Set<Exec>();
  #power = new AbortController();

  constructor(options: SessionsOptions) {
    this.#options = options;
    this.latency = new Map(Object.entries(options.latency));
  }

  get channels(): number {
    return this.#channels.size;
  }

  /** The power goes: whatever runs is lost. */
  stop(): void {
    this.#power.abort();
  }

  /** The power is back. @returns a signal that aborts when it goes again */
  begin(): AbortSignal {
    this.#power = new AbortController();
    return this.#power.signal;
  }

  /** Runs a line that came over a channel, and answers it. */
  async run(exec: Exec): Promise<void> {
    this.lines++;
    this.#channels.add(exec);
    exec.signal.addEventListener("abort", () => this.#channels.delete(exec));
    if (this.#channels.size > this.#options.maxChannels) return;
    const power = this.#power.signal;
    let failure: string | undefined;
    try {
      const output = await runLine(exec.line, {
        ...this.#options.console,
        failed: (text) => failure = `${text}\r\n`,
        started: (commands) => this.#started(commands, exec, power),
        before: (command, given) => this.#before({ command, given }, exec, power),
        ended: (commands, output) => this.#ended(commands, output, { exec, power }),
      });
      exec.answer(this.#answer(output, failure));
    } catch (error) {
      if (!power.aborted && !exec.signal.aborted) log.error("the simulator dropped a line", { error });
    }
  }

  #answer(output: string, failure: string | undefined): Answer {
    const { failureStatus, failuresOnStderr } = this.#options;
    if (failure === undefined) return { text: output, errors: "", status: 0 };
    if (!failuresOnStderr) return { text: output, errors: "", status: failureStatus };
    return { text: output.slice(0, -failure.length), errors: failure, status: failureStatus };
  }

  async #started(commands: readonly string[], exec: Exec, power: AbortSignal): Promise<void> {
    const alive = AbortSignal.any([power, exec.signal]);
    await take(this.latency.get("line"), alive);
    const fault = this.#options.faults.take("before", commands);
    if (fault?.action === "cut") exec.cut();
    if (fault) await never(alive);
  }

  async #ended(commands: readonly string[], output: string, on: { exec: Exec; power: AbortSignal }): Promise<void> {
    const half = this.#options.faults.take("answer", commands);
    const fault = half ?? this.#options.faults.take("after", commands);
    if (fault?.action === "cut") on.exec.cut(half && output.slice(0, Math.ceil(output.length / 2)));
    if (fault) await never(AbortSignal.any([on.power, on.exec.signal]));
  }

  /** What happens as a command begins, and how long it takes. */
  async #before({ command, given }: Begun, exec: Exec, power: AbortSignal): Promise<void> {
    throwIfAborted(exec.signal);
    if (command === "delay") return await take(delayIn(given["time"] ?? ""), AbortSignal.any([power, exec.signal]));
    this.commands.set(command, (this.commands.get(command) ?? 0) + 1);
    const alive = this.#options.outlivesChannel ? power : AbortSignal.any([power, exec.signal]);
    const fault = this.#options.faults.take("middle", [command], given);
    if (fault?.action === "cut") exec.cut();
    if (fault?.action === "hang") await never(alive);
    const verb = command.split(" ").at(-1) ?? "";
    await take(this.latency.get(command) ?? this.latency.get(verb), alive);
    if (fault?.action === "error") throw new ConsoleError(fault.text ?? "");
  }
}

/** A command that begins, and what it was given. */
interface Begun {
  command: string;
  given: Readonly<Record<string, string>>;
}

/** Milliseconds: `2` and `2s` are seconds. */
function delayIn(text: string): number {
  const [, digits, unit] = /^(\d{1,6}(?:\.\d+)?)(ms|s)?$/.exec(text) ?? [];
  if (digits === undefined) throw new ConsoleError("invalid value for argument delay-time");
  return Number(digits) * (unit === "ms" ? 1 : 1000);
}

/** Takes its time, if any; then nothing happens any more when the signal has aborted. */
async function take(milliseconds = 0, signal: AbortSignal): Promise<void> {
  if (milliseconds > 0) await pause(milliseconds, signal);
  throwIfAborted(signal);
}

function never(signal: AbortSignal): Promise<never> {
  return abortable(new Promise<never>(() => {}), signal);
}
