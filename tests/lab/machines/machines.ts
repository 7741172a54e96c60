import { Controller } from "../../../proto/gen/csi_pb.ts";
import { connect } from "../../../src/csi/rpc.ts";
import { startController } from "../driver.ts";
import type { LabProcess } from "../process.ts";
import type { Settings } from "./driver_in_guest.ts";
import { Network } from "./network.ts";
import { NodeMachine, type ServiceAccount } from "./node_machine.ts";
import { TARGET_ADDRESS, TargetMachine } from "./target_machine.ts";

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
