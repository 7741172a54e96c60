import type { Simulator } from "../../../src/simulator/simulator.ts";
import { PREFIX } from "../driver.ts";
import { type LabProcess, startProcess } from "../process.ts";
import { Program } from "./program.ts";
import { kubernetesTool } from "./tools.ts";

/** What a replica is started with. */
export interface ReplicaOptions {
  /** A folder of its own, for the socket. It is made. */
  folder: string;
  simulator: Simulator;
  /** What controller and sidecars log in with. */
  kubeconfig: string;
  /** Settings of the controller by flag, besides those that it cannot do without. */
  settings: Readonly<Record<string, string | true>>;
}

/** Quick to try again, so that tests need not wait for it. */
const common = ["--timeout=20s", "--retry-interval-start=200ms", "--retry-interval-max=2s", "--v=3"];
const sidecarArgs = {
  "csi-provisioner": ["--extra-create-metadata"],
  "csi-attacher": [],
  // Pods are not its business: a volume grows whether it is in use or not.
  "csi-resizer": ["--handle-volume-inuse-error=false"],
} as const;

/** What one pod of the controller has in it: the controller and its sidecars. Letting it go ends them. */
export class Replica implements AsyncDisposable {
  readonly controller: LabProcess;
  readonly sidecars: readonly Program[];

  /** Made by {@linkcode startReplica}. */
  constructor(controller: LabProcess, sidecars: readonly Program[]) {
    this.controller = controller;
    this.sidecars = sidecars;
  }

  /** What is in it, with what each has written. */
  get outputs(): { name: string; output: string }[] {
    return [...this.sidecars, { name: "controller", output: this.controller.output }];
  }

  /** Kills all at once, as when the machine's power goes. */
  async crash(): Promise<void> {
    for (const each of [this.controller, ...this.sidecars]) each.kill("SIGKILL");
    await this[Symbol.asyncDispose]();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const sidecar of this.sidecars) await sidecar.stop();
    await this.controller.stop();
  }
}

/** Starts a controller and, on its socket, the real sidecars. */
export async function startReplica(options: ReplicaOptions): Promise<Replica> {
  const { folder, kubeconfig } = options;
  await Deno.mkdir(folder, { recursive: true });
  await using stack = new AsyncDisposableStack();
  const controller = stack.use(await startController(options));
  const sidecars: Program[] = [];
  for (const name of Object.keys(sidecarArgs) as (keyof typeof sidecarArgs)[]) {
    const args = [`--csi-address=${folder}/csi.sock`, `--kubeconfig=${kubeconfig}`, ...common, ...sidecarArgs[name]];
    sidecars.push(stack.use(new Program({ name, path: await kubernetesTool(name), args, folder })));
  }
  // From now on they are the replica's.
  stack.move();
  return new Replica(controller, sidecars);
}

async function startController({ folder, simulator, settings }: ReplicaOptions): Promise<LabProcess> {
  await Deno.writeTextFile(`${folder}/host_key`, `${simulator.hostKey}\n`);
  const { clientKeyFile = "" } = simulator;
  const key = `${folder}/client_key`;
  await Deno.copyFile(clientKeyFile, key);
  return await startProcess({
    mode: "controller",
    folder,
    settings: {
      "endpoint": `unix://${folder}/csi.sock`,
      "rds-address": simulator.host,
      "rds-port": simulator.port,
      "rds-key-file": key,
      "rds-host-key": `${folder}/host_key`,
      "metrics-address": "127.0.0.1:0",
      ...settings,
    },
    env: { CSI_MANAGED_NQN_PREFIX: PREFIX },
  });
}
