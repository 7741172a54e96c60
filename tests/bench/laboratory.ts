import { Controller } from "../../proto/gen/csi_pb.ts";
import { type Client, connect } from "../../src/csi/rpc.ts";
import { NODE_ID, PREFIX, startController } from "../lab/driver.ts";
import { TextLineStream } from "../../src/runtime/lines.ts";
import { type LabProcess, startProcess } from "../lab/process.ts";

/** How much is to be done, and until when. */
export interface Scope {
  quick: boolean;
  signal: AbortSignal;
}

/** Simulator and controller as processes, and the ways to them. */
export interface Laboratory extends Scope, AsyncDisposable {
  controller: LabProcess;
  csi: Client<typeof Controller>;
  /** Sets how long the simulator's commands take, in milliseconds; those not named take none. */
  latency(commands: Readonly<Record<string, number>>): Promise<void>;
  /** What has been sent so far: lines that came to the simulator, and the milliseconds that the controller has waited for their answers. */
  sent(): Promise<{ lines: number; waited: number }>;
}

const VERBS = ["add", "print", "remove"];

/** Starts a simulator over the pool in `folder`, with room for whatever is made, and a controller. */
export async function laboratory(folder: string, scope: Scope): Promise<Laboratory> {
  await using stack = new AsyncDisposableStack();
  const simulator = stack.use(await startSimulator(folder));
  const socket = `${folder}/controller.sock`;
  const controller = stack.use(await startController(folder, simulator, socket));
  const csi = stack.use(connect(Controller, socket));
  const control = stack.use(await Control.open(`${folder}/control.sock`));
  const [, port] = /metricsPort=(\d+)/.exec(controller.output) ?? [];
  const all = stack.move();
  return {
    ...scope,
    controller,
    csi,
    async latency(commands) {
      for (const command of VERBS) {
        await control.ask({ op: "latency", command, milliseconds: commands[command] ?? 0 });
      }
    },
    async sent() {
      const { lines } = await control.ask({ op: "state" });
      const text = await (await fetch(`http://127.0.0.1:${port}/metrics`)).text();
      const sums = text.matchAll(/^rds_csi_ssh_command_duration_seconds_sum\{.*\} (\S+)$/gm);
      const seconds = [...sums].reduce((sum, [, each]) => sum + Number(each), 0);
      return { lines: Number(lines), waited: 1000 * seconds };
    },
    [Symbol.asyncDispose]: () => all.disposeAsync(),
  };
}

export function startSimulator(folder: string): Promise<LabProcess> {
  return startProcess({
    mode: "simulator",
    folder,
    settings: {
      "listen": "127.0.0.1:0",
      "pool": `${folder}/pool`,
      "pool-size": "100T",
      "control-socket": `${folder}/control.sock`,
    },
  });
}

/** A node that has nothing to do: empty folders are enough for it, and nobody needs to be root. */
export async function startNode(folder: string): Promise<LabProcess> {
  for (const name of ["proc", "sys/module/nvme_tcp", "dev"]) await Deno.mkdir(`${folder}/${name}`, { recursive: true });
  const roots = { "proc-root": `${folder}/proc`, "sysfs-root": `${folder}/sys`, "dev-root": `${folder}/dev` };
  const endpoint = `unix://${folder}/node.sock`;
  return await startProcess({
    mode: "node",
    folder,
    settings: { endpoint, "node-id": NODE_ID, standalone: true, "metrics-address": "127.0.0.1:0", ...roots },
    env: { CSI_MANAGED_NQN_PREFIX: PREFIX },
  });
}

/** The simulator's control socket. */
class Control implements Disposable {
  readonly #connection: Deno.Conn;
  readonly #answers: ReadableStreamDefaultReader<string>;

  private constructor(connection: Deno.Conn) {
    this.#connection = connection;
    this.#answers = connection.readable.pipeThrough(new TextDecoderStream()).pipeThrough(new TextLineStream())
      .getReader();
  }

  static async open(path: string): Promise<Control> {
    return new Control(await Deno.connect({ transport: "unix", path }));
  }

  async ask(request: Record<string, unknown>): Promise<Record<string, unknown>> {
    await this.#connection.write(new TextEncoder().encode(`${JSON.stringify(request)}\n`));
    const { value } = await this.#answers.read();
    const answer: Record<string, unknown> = JSON.parse(value ?? "{}");
    if (answer.ok === true) return answer;
    throw new Error(`the simulator answered ${value}`);
  }

  [Symbol.dispose](): void {
    this.#answers.cancel().catch(() => {});
  }
}
