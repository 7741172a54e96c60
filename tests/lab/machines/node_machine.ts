import { Identity, Node } from "../../../proto/gen/csi_pb.ts";
import { connect } from "../../../src/csi/rpc.ts";
import { Deadline, poll } from "../../../src/runtime/deadline.ts";
import { driverEnv, driverIn, type Settings } from "./driver_in_guest.ts";
import type { GuestProcess } from "./guest.ts";
import { Machine } from "./machine.ts";
import { patient } from "./patience.ts";

const METRICS = 9809;
/** The folders that the permission set names. */
const SOCKET = "/var/lib/kubelet/plugins/rds.csi.srvlab.io/csi.sock";
const ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount";

/** What a node's pod is given of Kubernetes, as the kubelet does it. */
export interface ServiceAccount {
  env: Readonly<Record<string, string>>;
  /** By name, in the folder where every pod finds them. */
  files: Readonly<Record<string, string>>;
}

/** How such a machine is made. */
export interface NodeOptions {
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
    const { program, args } = driverIn("node", {
      "endpoint": `unix://${SOCKET}`,
      "node-id": this.name,
      "metrics-address": `0.0.0.0:${METRICS}`,
      ...(this.#account || "kubeconfig" in this.settings ? {} : { standalone: true }),
      ...this.settings,
      ...settings,
    });
    const { guest } = this.machine;
    await guest.quick(`mkdir -p ${ACCOUNT}; mkdir -p -m 700 ${SOCKET.slice(0, SOCKET.lastIndexOf("/"))}`);
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
    const text = await this.machine.guest.quick(
      "for c in /sys/class/nvme/nvme*; do " +
        'read -r nqn <$c/subsysnqn && read -r state <$c/state && echo "${c##*/} $nqn $state"; done 2>/dev/null || true',
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
