import { pause } from "../../../src/runtime/deadline.ts";
import { TextLineStream } from "../../../src/runtime/lines.ts";
import type { Ran, Start } from "./agent.ts";
import { patient } from "./patience.ts";

/** How a program is run in a machine. */
export type GuestRun = Omit<Start, "program" | "args">;

/** A connection of before a machine's reset would fail the next request. */
const unpooled = Deno.createHttpClient({ poolMaxIdlePerHost: 0 });

/** The way to a machine's agent. It stays the same when the machine is started anew. */
export class Guest {
  readonly #name: string;
  readonly #url: string;

  constructor(name: string, port: number) {
    this.#name = name;
    this.#url = `http://127.0.0.1:${port}`;
  }

  /**
   * Runs a program to its end, whatever its exit code.
   * @param options.deadline milliseconds (a minute by default, patience included)
   * @throws when it is still there at the deadline: it is killed, or left alone when it hangs in the kernel
   */
  async run(program: string, args: readonly string[] = [], options: GuestRun = {}): Promise<Ran> {
    const deadline = options.deadline ?? patient(60_000);
    const ran: Ran = await this.#json("/run", { ...options, program, args, deadline }, deadline + patient(10_000));
    if (!ran.late) return ran;
    const what = `'${program} ${args.join(" ")}' on ${this.#name} did not end within ${
      deadline / 1000
    } s (${ran.late})`;
    throw new Error(`${what}; it wrote:\n${ran.stdout}${ran.stderr}`);
  }

  /** Runs a script of the shell and gives its output, without the line's end. @throws with what it said when it fails */
  async sh(script: string, options: GuestRun = {}): Promise<string> {
    return await this.#script(["sh"], script, options);
  }

  /** As {@linkcode sh}, with the programs that are in busybox itself: under emulation they start many times faster. */
  async quick(script: string, options: GuestRun = {}): Promise<string> {
    return await this.#script(["busybox", "sh"], script, options);
  }

  async #script([program = "", ...args]: readonly string[], script: string, options: GuestRun): Promise<string> {
    const { code, stdout, stderr } = await this.run(program, [...args, "-euc", script], options);
    if (code !== 0) throw new Error(`on ${this.#name} '${script}' ended with ${code}: ${stderr}${stdout}`);
    return stdout.trimEnd();
  }

  /** Starts a process that goes on by itself. One of the same name must have ended. */
  async start(name: string, program: string, args: readonly string[], options: GuestRun = {}): Promise<GuestProcess> {
    const query = `name=${encodeURIComponent(name)}`;
    await this.#json(`/start?${query}`, { ...options, program, args });
    return new GuestProcess(this, name, await this.fetch(`/output?${query}`));
  }

  async readFile(path: string): Promise<string> {
    return await (await this.fetch(`/file?name=${encodeURIComponent(path)}`, { deadline: patient(30_000) })).text();
  }

  async writeFile(path: string, body: string | Uint8Array<ArrayBuffer>): Promise<void> {
    await (await this.fetch(`/file?name=${encodeURIComponent(path)}`, { body, deadline: patient(30_000) })).text();
  }

  /** Asks the agent. @throws with what it says against it */
  async fetch(
    path: string,
    { body, deadline }: { body?: string | Uint8Array<ArrayBuffer>; deadline?: number } = {},
  ): Promise<Response> {
    const answer = await fetch(`${this.#url}${path}`, {
      client: unpooled,
      ...(body === undefined ? {} : { method: "POST", body }),
      ...(deadline === undefined ? {} : { signal: AbortSignal.timeout(deadline) }),
    });
    if (!answer.ok) throw new Error(`${this.#name}: ${await answer.text()}`);
    return answer;
  }

  async #json<T>(path: string, body: unknown, deadline = patient(30_000)): Promise<T> {
    return await (await this.fetch(path, { body: JSON.stringify(body), deadline })).json();
  }
}

/** A process in a machine. It ends with the machine. */
export class GuestProcess {
  readonly name: string;
  readonly #guest: Guest;
  readonly #lines: string[] = [];
  readonly #followed: Promise<void>;

  constructor(guest: Guest, name: string, output: Response) {
    this.#guest = guest;
    this.name = name;
    this.#followed = this.#follow(output).catch(() => {});
  }

  /** What it has written so far, as far as it came here before the machine went. */
  get output(): string {
    return this.#lines.join("\n");
  }

  /** The first line that fits. */
  find(form: RegExp): string | undefined {
    return this.#lines.find((line) => form.test(line));
  }

  /** Whether it runs, and how it ended. */
  async state(): Promise<{ running: boolean; code?: number; pid: number }> {
    return await (await this.#guest.fetch(`/process?${this.#query}`, { deadline: patient(30_000) })).json();
  }

  /** Sends a signal, unless it has ended. */
  async kill(signal: Deno.Signal): Promise<void> {
    await (await this.#guest.fetch(`/signal?${this.#query}&signal=${signal}`, { body: "", deadline: patient(30_000) }))
      .text();
  }

  /** Resolves with its exit code when it has ended. @throws when it runs still after `deadline` milliseconds */
  async ended(deadline = patient(120_000)): Promise<number> {
    const end = performance.now() + deadline;
    for (;;) {
      const { running, code } = await this.state();
      if (!running) {
        await Promise.race([this.#followed, pause(1000)]);
        return code ?? -1;
      }
      if (performance.now() > end) throw new Error(`${this.name} runs still; it wrote:\n${this.output}`);
      await pause(100);
    }
  }

  get #query(): string {
    return `name=${encodeURIComponent(this.name)}`;
  }

  async #follow(output: Response): Promise<void> {
    const text = output.body?.pipeThrough(new TextDecoderStream()).pipeThrough(new TextLineStream());
    for await (const line of text ?? []) this.#lines.push(line);
  }
}
