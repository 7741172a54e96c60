import manifest from "../../deno.json" with { type: "json" };
import { Identity } from "../../proto/gen/csi_pb.ts";
import { connect } from "../../src/csi/rpc.ts";
import { Deadline, poll } from "../../src/runtime/deadline.ts";
import { TextLineStream } from "../../src/runtime/lines.ts";
import { fromFileUrl, project } from "./project.ts";

/** How one of the driver's processes is started. */
export interface ProcessOptions {
  mode: "controller" | "node" | "simulator";
  /** Settings by flag, without dashes; a switch is `true`. */
  settings: Readonly<Record<string, string | number | true>>;
  /** The folder that the process may read and write besides what its permission set names. */
  folder: string;
  /** More folders of that kind. */
  folders?: readonly string[];
  env?: Readonly<Record<string, string>>;
  /** What it is started by: `unshare` and its arguments. It must become the process itself. */
  by?: readonly string[];
  /** Milliseconds until it must be ready; one minute by default. */
  deadline?: number;
}

/** What the simulator says when it is ready. */
export interface SimulatorReady {
  host: string;
  port: number;
  fingerprint: string;
  /** In authorized_keys form. */
  hostKey: string;
  /** Path of a private key that may log in. */
  clientKeyFile?: string;
}

/**
 * Starts the program (or the compiled or bundled one that `RDS_CSI_PROGRAM` names) in a mode, and waits until a
 * controller's or node's Probe says ready, or the simulator has said so.
 * @throws with everything the process wrote, when it ends before or is not ready in time
 */
export async function startProcess(options: ProcessOptions): Promise<LabProcess> {
  const started = new LabProcess(options);
  const { mode, settings, deadline: milliseconds = 60_000 } = options;
  try {
    using deadline = new Deadline(milliseconds, `the ${mode} to be ready`);
    if (mode === "simulator") {
      await poll(() => started.assertRunning().firstLine, { signal: deadline.signal, interval });
    } else await untilReady(String(settings.endpoint).replace(/^unix:\/\//, ""), started, deadline.signal);
  } catch (error) {
    await started.stop();
    throw new Error(`${error instanceof Error ? error.message : error}; it wrote:\n${started.output}`, {
      cause: error,
    });
  }
  return started;
}

async function untilReady(socket: string, started: LabProcess, signal: AbortSignal): Promise<void> {
  // A client that comes before the socket is there tries again only after a second (gRPC's connection backoff).
  await poll(() => exists(socket, started), { signal, interval });
  using identity = connect(Identity, socket);
  await poll(async () => {
    started.assertRunning();
    const answer = await identity.probe({}, { signal, deadline: 1000 }).catch(() => undefined);
    return answer?.ready === false ? undefined : answer;
  }, { signal, interval });
}

async function exists(path: string, started: LabProcess): Promise<true | undefined> {
  started.assertRunning();
  return await Deno.stat(path).then(() => true as const, () => undefined);
}

/** Milliseconds between two looks whether a process is ready. */
const interval = 5;

/** A process of the driver's. Letting it go ends it. */
export class LabProcess implements AsyncDisposable {
  readonly mode: string;
  /** Its first line on standard output. */
  firstLine: string | undefined;
  readonly #child: Deno.ChildProcess;
  readonly #lines: string[] = [];
  readonly #read: Promise<unknown>;
  #ended: Deno.CommandStatus | undefined;

  constructor(options: ProcessOptions) {
    this.mode = options.mode;
    const { program, args } = commandLine(options);
    const [first = "", ...rest] = [...options.by ?? [], program, ...args];
    this.#child = new Deno.Command(first, {
      args: rest,
      cwd: options.folder,
      env: { ...options.env },
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    this.#read = Promise.all([this.#collect(this.#child.stdout, true), this.#collect(this.#child.stderr, false)]);
    this.#child.status.then((status) => this.#ended = status);
  }

  get pid(): number {
    return this.#child.pid;
  }

  /** All that it has written so far. */
  get output(): string {
    return this.#lines.join("\n");
  }

  /** How it ended, once it has: exit code and signal. */
  get status(): Promise<Deno.CommandStatus> {
    return this.#child.status;
  }

  /** What the simulator said when it was ready. */
  get simulator(): SimulatorReady {
    return JSON.parse(this.firstLine ?? "");
  }

  /** Itself. @throws when it has ended */
  assertRunning(): this {
    if (this.#ended) throw new Error(`the ${this.mode} ended with status ${this.#ended.code}`);
    return this;
  }

  kill(signal: Deno.Signal): void {
    if (!this.#ended) this.#child.kill(signal);
  }

  /** Ends it with TERM, and with KILL when it is still there after `grace` milliseconds (40 s by default). */
  async stop(grace = 40_000): Promise<Deno.CommandStatus> {
    this.kill("SIGTERM");
    const timer = setTimeout(() => this.kill("SIGKILL"), grace);
    const status = await this.#child.status;
    clearTimeout(timer);
    await this.#read;
    return status;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }

  async #collect(stream: ReadableStream<Uint8Array<ArrayBuffer>>, isOut: boolean): Promise<void> {
    for await (const line of stream.pipeThrough(new TextDecoderStream()).pipeThrough(new TextLineStream())) {
      if (isOut) this.firstLine ??= line;
      this.#lines.push(line);
    }
  }
}

/** What starts the program in a mode under the mode's own permission set. */
export function commandLine(
  { mode, settings, folder, folders = [] }: ProcessOptions,
): { program: string; args: string[] } {
  const flags = [`--mode=${mode}`];
  for (const [flag, value] of Object.entries(settings)) flags.push(value === true ? `--${flag}` : `--${flag}=${value}`);
  const program = Deno.env.get("RDS_CSI_PROGRAM") || fromFileUrl(new URL("main.ts", project));
  if (!/\.m?[jt]s$/.test(program)) return { program, args: flags };
  // A flag takes the place of the set's own list, so that goes in too.
  const set = manifest.permissions[mode];
  const [read, write] = [set.read, set.write].map((list) => [...list, folder, ...folders].join(","));
  const permissions = [`-P=${mode}`, `--allow-read=${read}`, `--allow-write=${write}`, "--no-prompt"];
  const config = `--config=${fromFileUrl(new URL("deno.json", project))}`;
  return { program: Deno.execPath(), args: ["run", "--quiet", config, ...permissions, program, ...flags] };
}
