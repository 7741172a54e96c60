import { connect } from "../../../src/csi/rpc.ts";
import { Controller, Identity, Node } from "../../../proto/gen/csi_pb.ts";
import { Deadline, poll } from "../../../src/runtime/deadline.ts";
import { PREFIX, startController } from "../driver.ts";
import { commandLine, type LabProcess, type SimulatorReady } from "../process.ts";
import type { GuestProcess } from "./guest.ts";
import { Machine } from "./machine.ts";
import { Network } from "./network.ts";
import { patient } from "./patience.ts";

/** Settings by flag, without dashes; a switch is `true`. */
export type Settings = Readonly<Record<string, string | number | true>>;

/** What a node's pod is given of Kubernetes, as the kubelet does it. */
export interface ServiceAccount {
  env: Readonly<Record<string, string>>;
  /** By name, in the folder where every pod finds them. */
  files: Readonly<Record<string, string>>;
}

/** What can be set. */
export interface MachinesOptions {
  /** Where everything lies; its path is short (sockets are in it). */
  folder: string;
  /** How many nodes; one by default. */
  nodes?: number;
  /** More settings of each. */
  simulator?: Settings;
  node?: Settings;
  controller?: Readonly<Record<string, string>>;
  /** Without a controller on the host. */
  withoutController?: boolean;
  /** What each node asks Kubernetes with; without it they are standalone. */
  account?: (node: string) => ServiceAccount;
  /** MiB of each node; 1024 by default. */
  memory?: number;
}

const SSH = 22;
const METRICS = 9809;
/** Where nodes reach the exports. */
export const TARGET_ADDRESS = "10.77.0.1";
/** The folders that the permission sets name. */
const POOL = "/var/lib/rds-csi-simulator";
const CONTROL = `${POOL}/.control.sock`;
const SOCKET = "/var/lib/kubelet/plugins/rds.csi.srvlab.io/csi.sock";
const ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount";
const DISK = 16 * 2 ** 30;

/** The storage machine: a simulated RouterOS whose exports are the kernel's, on a disk that outlives the machine. */
export class TargetMachine {
  readonly machine: Machine;
  /** What the simulator said when it was ready, with the port on the host. */
  ready!: SimulatorReady;
  simulator!: GuestProcess;
  /** For the next starts of the simulator: `guesses` for one. */
  settings: Settings;

  private constructor(machine: Machine, settings: Settings) {
    this.machine = machine;
    this.settings = settings;
  }

  static async start(folder: string, options: { network: string[]; settings: Settings }): Promise<TargetMachine> {
    let target: TargetMachine | undefined;
    const machine = await Machine.start({
      name: "target",
      folder,
      network: options.network,
      address: TARGET_ADDRESS,
      load: ["virtio_blk", "ext4", "nvmet-tcp", "loop", "crc32c-intel"],
      disk: DISK,
      ports: [SSH],
      onUp: async (machine) => {
        target ??= new TargetMachine(machine, options.settings);
        await target.#up();
      },
    });
    return target ?? new TargetMachine(machine, options.settings);
  }

  /** Runs a line of RouterOS' console. @throws with what it prints when that is a failure */
  async routerOs(line: string): Promise<string> {
    const { output } = await this.control({ op: "run", line });
    if (/^(failure|syntax error|bad |expected |no such|invalid )/m.test(String(output))) {
      throw new Error(String(output));
    }
    return String(output);
  }

  /** Asks the simulator's control socket: `{ op: "state" }`, … @throws with what it says against it */
  async control(request: Record<string, unknown>): Promise<Record<string, unknown>> {
    const connection = await Deno.connect({ transport: "unix", path: this.#control });
    try {
      await connection.write(new TextEncoder().encode(`${JSON.stringify(request)}\n`));
      let text = "";
      for await (const part of connection.readable.pipeThrough(new TextDecoderStream())) {
        text += part;
        if (text.endsWith("\n")) break;
      }
      const answer = JSON.parse(text);
      if (!answer.ok) throw new Error(`the simulator: ${answer.error}`);
      return answer;
    } finally {
      try {
        connection.close();
      } catch {
        // Reading to its end has closed it.
      }
    }
  }

  /** Exports a disk that is none of the driver's. @returns its NQN */
  async foreignExport(slot = "nixos-var", size = 64 * 2 ** 20): Promise<string> {
    const nqn = `nqn.2000-02.com.mikrotik:${slot}`;
    await this.routerOs(
      `/disk/add type=file file-path=/storage-pool/${slot}.img file-size=${size} slot=${slot} mount-filesystem=no ` +
        `nvme-tcp-export=yes nvme-tcp-server-port=4420 nvme-tcp-server-nqn=${nqn}`,
    );
    return nqn;
  }

  /** Starts the simulator anew, killed as it is; its exports go and come back. */
  async restartSimulator(): Promise<void> {
    await this.simulator.kill("SIGKILL");
    await this.simulator.ended();
    await this.#startSimulator();
  }

  async #up(): Promise<void> {
    await this.machine.guest.sh(
      `[ -n "$(blkid /dev/vda)" ] || mkfs.ext4 -q -E lazy_itable_init=1 /dev/vda; mkdir -p ${POOL}; mount /dev/vda ${POOL}`,
    );
    await this.#startSimulator();
  }

  async #startSimulator(): Promise<void> {
    const { program, args } = driver("simulator", {
      "listen": `0.0.0.0:${SSH}`,
      "pool": POOL,
      "pool-size": "8G",
      "exporter": "nvmet",
      "control-socket": CONTROL,
      ...this.settings,
    });
    this.simulator = await this.machine.start("simulator", program, args, { env: driverEnv });
    this.ready = JSON.parse(await said(this.simulator, /^\{"ready":true/));
    this.ready.host = "127.0.0.1";
    this.ready.port = this.machine.port(SSH);
  }

  #tunnel: string | undefined;
  get #control(): string {
    return this.#tunnel ??= this.machine.tunnel(CONTROL);
  }
}

interface NodeOptions {
  name: string;
  network: string[];
  address: string;
  settings: Settings;
  memory?: number;
  account?: ServiceAccount | undefined;
}

/** A machine with the driver's node. */
export class NodeMachine {
  readonly machine: Machine;
  /** The node's CSI socket, on the host. */
  readonly socket: string;
  agent!: GuestProcess;
  /** For the next starts of the agent. */
  settings: Settings;
  readonly #account: ServiceAccount | undefined;

  private constructor(machine: Machine, { settings, account }: Pick<NodeOptions, "settings" | "account">) {
    this.machine = machine;
    this.settings = settings;
    this.#account = account;
    this.socket = machine.tunnel(SOCKET);
  }

  static async start(folder: string, options: NodeOptions): Promise<NodeMachine> {
    const { name, network, address, memory = 1024 } = options;
    let node: NodeMachine | undefined;
    const machine = await Machine.start({
      ...{ name, folder, network, address, memory },
      load: ["nvme-tcp", "loop", "crc32c-intel", "ext4", "xfs"],
      ports: [METRICS],
      onUp: async (machine) => {
        node ??= new NodeMachine(machine, options);
        await node.startAgent();
      },
    });
    return node ?? new NodeMachine(machine, options);
  }

  get name(): string {
    return this.machine.name;
  }

  /** A client of the node's service. It survives the agent's and the machine's restarts, call by call. */
  client(): ReturnType<typeof connect<typeof Node>> {
    return connect(Node, this.socket);
  }

  /** What the node says at `/metrics`. */
  async metrics(): Promise<string> {
    const url = `http://127.0.0.1:${this.machine.port(METRICS)}/metrics`;
    return await (await fetch(url, { signal: AbortSignal.timeout(patient(30_000)) })).text();
  }

  /** Starts the driver's node under its own permission set, and waits until its Probe says ready. */
  async startAgent(settings: Settings = {}): Promise<void> {
    await this.launchAgent(settings);
    await this.untilReady();
  }

  /** Starts it without waiting. */
  async launchAgent(settings: Settings = {}): Promise<void> {
    const { program, args } = driver("node", {
      "endpoint": `unix://${SOCKET}`,
      "node-id": this.name,
      "metrics-address": `0.0.0.0:${METRICS}`,
      ...(this.#account || "kubeconfig" in this.settings ? {} : { standalone: true }),
      ...this.settings,
      ...settings,
    });
    const { guest } = this.machine;
    await guest.sh(`mkdir -p ${ACCOUNT}; mkdir -p -m 700 ${SOCKET.slice(0, SOCKET.lastIndexOf("/"))}`);
    const { env, files } = this.#account ?? { env: {}, files: {} };
    for (const [name, text] of Object.entries(files)) await guest.writeFile(`${ACCOUNT}/${name}`, text);
    this.agent = await this.machine.start("node", program, args, { env: { ...driverEnv, ...env } });
  }

  async untilReady(): Promise<void> {
    using deadline = new Deadline(patient(240_000), `the node on ${this.name} to be ready`);
    await poll(async () => {
      if (/(^|\s)the node serves/m.test(this.agent.output)) return true;
      if ((await this.agent.state()).running) return undefined;
      throw new Error(`the node on ${this.name} ended; it wrote:\n${this.agent.output}`);
    }, { signal: deadline.signal, interval: 50 });
    using identity = connect(Identity, this.socket);
    await poll(async () => {
      const answer = await identity.probe({}, { signal: deadline.signal, deadline: 5000 }).catch(() => undefined);
      return answer?.ready === false ? undefined : answer;
    }, { signal: deadline.signal, interval: 50 });
  }

  /** Sends the agent KILL (by default) and waits until it is gone. */
  async killAgent(signal: Deno.Signal = "SIGKILL"): Promise<void> {
    await this.agent.kill(signal);
    await this.agent.ended();
  }

  /** NVMe controllers of the kernel. Reads sysfs alone. */
  async controllers(): Promise<{ name: string; nqn: string; state: string }[]> {
    const text = await this.machine.guest.sh(
      'for c in /sys/class/nvme/nvme*; do [ -e "$c" ] || continue; echo "${c##*/} $(cat $c/subsysnqn) $(cat $c/state)"; done',
    );
    return text.split("\n").filter(Boolean).map((line) => {
      const [name = "", nqn = "", state = ""] = line.split(" ");
      return { name, nqn, state };
    });
  }

  /** Waits until the kernel's session of an NQN is in a state; `gone`: until there is none. */
  async untilSession(nqn: string, state: "live" | "connecting" | "gone", deadline = patient(120_000)): Promise<void> {
    using limit = new Deadline(deadline, `the session of ${nqn} on ${this.name} to be ${state}`);
    await poll(async () => {
      const found = (await this.controllers()).filter((each) => each.nqn === nqn);
      return (found.length === 0 ? state === "gone" : found.every((each) => each.state === state)) || undefined;
    }, { signal: limit.signal, interval: 200 });
  }
}

/** A storage machine, nodes, and a controller on the host. */
export interface Machines extends AsyncDisposable {
  folder: string;
  target: TargetMachine;
  nodes: readonly NodeMachine[];
  /** The controller's process, without Kubernetes. */
  controller: LabProcess | undefined;
  /** Its CSI socket. */
  socket: string;
  /** A client of the controller's service. */
  client(): ReturnType<typeof connect<typeof Controller>>;
  /** StorageClass parameters that lead nodes over the storage network. */
  parameters: Readonly<Record<string, string>>;
  /** What all machines and the controller wrote last. */
  report(): string;
}

/** Starts everything at the same time. Letting it go ends it. */
export async function startMachines(options: MachinesOptions): Promise<Machines> {
  const { folder, nodes: count = 1 } = options;
  const stack = new AsyncDisposableStack();
  try {
    const names = Array.from({ length: count }, (_, at) => `node${at + 1}`);
    const network = new Network(folder);
    const starting = {
      target: TargetMachine.start(folder, { network: network.hub(names), settings: options.simulator ?? {} }),
      nodes: names.map((name, at) =>
        NodeMachine.start(folder, {
          name,
          network: network.node(at + 1, name),
          address: `10.77.0.${11 + at}`,
          settings: options.node ?? {},
          memory: options.memory ?? 1024,
          account: options.account?.(name),
        })
      ),
    };
    const started = await Promise.allSettled([starting.target, ...starting.nodes]);
    for (const each of started) if (each.status === "fulfilled") stack.use(each.value.machine);
    const failed = started.find((each) => each.status === "rejected");
    if (failed) throw failed.reason;
    const [target, nodes] = [await starting.target, await Promise.all(starting.nodes)];
    const socket = `${folder}/controller/csi.sock`;
    const controller = options.withoutController ? undefined : stack.use(
      await startStandalone(folder, { target, names, socket, settings: options.controller ?? {} }),
    );
    const all = stack.move();
    return {
      ...{ folder, target, nodes, controller, socket },
      client: () => connect(Controller, socket),
      parameters: { nvmeAddress: TARGET_ADDRESS },
      report: () =>
        [...[target, ...nodes].map(({ machine }) => machine.report()), `--- controller\n${controller?.output}`].join(
          "\n",
        ),
      [Symbol.asyncDispose]: () => all.disposeAsync(),
    };
  } catch (error) {
    await stack.disposeAsync();
    throw error;
  }
}

async function startStandalone(
  folder: string,
  options: {
    target: TargetMachine;
    names: readonly string[];
    socket: string;
    settings: Readonly<Record<string, string>>;
  },
): Promise<LabProcess> {
  const { target, names, socket, settings } = options;
  const { ready, machine } = target;
  const clientKeyFile = `${folder}/client_key`;
  await Deno.writeTextFile(clientKeyFile, await machine.guest.readFile(ready.clientKeyFile ?? ""), { mode: 0o600 });
  const simulator = { simulator: { ...ready, clientKeyFile } } as LabProcess;
  return await startController(folder, simulator, socket, { "standalone-nodes": names.join(","), ...settings });
}

/** What starts the driver with nothing but what its permission set grants: a flag would stand in for the set's list. */
function driver(mode: "node" | "simulator", settings: Settings): { program: string; args: string[] } {
  const { program, args } = commandLine({ mode, settings, folder: "" });
  return { program, args: args.filter((arg) => !arg.startsWith("--allow-")) };
}

const driverEnv = { CSI_MANAGED_NQN_PREFIX: PREFIX };

async function said(process: GuestProcess, form: RegExp): Promise<string> {
  using deadline = new Deadline(patient(240_000), `${process.name} to say ${form}`);
  try {
    return await poll(async () => {
      const line = process.find(form);
      if (line || (await process.state()).running) return line;
      throw new Error(`${process.name} ended`);
    }, { signal: deadline.signal, interval: 50 });
  } catch (error) {
    throw new Error(`${error instanceof Error ? error.message : error}; it wrote:\n${process.output}`, {
      cause: error,
    });
  }
}
