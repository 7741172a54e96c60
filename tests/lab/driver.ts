import { type StandIn, standIn } from "../nvme/stand_in.ts";
import { type LabProcess, startProcess } from "./process.ts";

/** Simulator, controller and node as processes, with loop devices for NVMe. Letting it go ends them in good order. */
export interface LabDriver extends AsyncDisposable {
  standIn: StandIn;
  simulator: LabProcess;
  controller: LabProcess;
  node: LabProcess;
  /** Paths of the sockets. */
  sockets: { controller: string; node: string };
}

export const NODE_ID = "node-1";
/** What the NQNs of its volumes begin with. */
export const PREFIX = "nqn.2000-02.com.mikrotik:pvc-";

/** Starts all three in a folder. Call it inside namespaces of one's own ({@linkcode inNamespace}). */
export async function startDriver(folder: string): Promise<LabDriver> {
  const stack = new AsyncDisposableStack();
  try {
    const nvme = stack.use(await standIn());
    const simulator = stack.use(
      await startProcess({
        mode: "simulator",
        folder,
        settings: { listen: "127.0.0.1:0", pool: `${folder}/pool`, exporter: "loop", "exports-dir": nvme.exports },
        folders: [nvme.exports],
      }),
    );
    const sockets = { controller: `${folder}/controller/csi.sock`, node: `${folder}/node/csi.sock` };
    const controller = stack.use(await startController(folder, simulator, sockets.controller));
    const node = stack.use(
      await startProcess({
        mode: "node",
        folder,
        settings: {
          endpoint: `unix://${sockets.node}`,
          "node-id": NODE_ID,
          standalone: true,
          "proc-root": nvme.roots.proc,
          "sysfs-root": nvme.roots.sysfs,
          "dev-root": nvme.roots.dev,
          "metrics-address": "127.0.0.1:0",
        },
        env: { ...nvme.env, CSI_MANAGED_NQN_PREFIX: PREFIX },
        folders: [nvme.folder],
      }),
    );
    const all = stack.move();
    return { standIn: nvme, simulator, controller, node, sockets, [Symbol.asyncDispose]: () => all.disposeAsync() };
  } catch (error) {
    await stack.disposeAsync();
    throw error;
  }
}

/** Starts a standalone controller for a simulator. */
export async function startController(
  folder: string,
  simulator: LabProcess,
  socket: string,
  more: Readonly<Record<string, string>> = {},
): Promise<LabProcess> {
  const { host, port, hostKey, clientKeyFile = "" } = simulator.simulator;
  await Deno.writeTextFile(`${folder}/host_key`, `${hostKey}\n`);
  return await startProcess({
    mode: "controller",
    folder,
    settings: {
      endpoint: `unix://${socket}`,
      standalone: true,
      "standalone-nodes": NODE_ID,
      "rds-address": host,
      "rds-port": port,
      "rds-key-file": clientKeyFile,
      "rds-host-key": `${folder}/host_key`,
      "metrics-address": "127.0.0.1:0",
      ...more,
    },
    env: { CSI_MANAGED_NQN_PREFIX: PREFIX },
  });
}
