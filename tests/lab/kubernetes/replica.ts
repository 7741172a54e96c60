import { PREFIX } from "../driver.ts";
import { type LabProcess, startProcess } from "../process.ts";
import type { ApiProxy } from "./api_proxy.ts";
import { KeptProgram } from "./kept_program.ts";
import { kubernetesTool } from "./tools.ts";

/** Settings of the controller by flag, without dashes; a switch is `true`. */
export type Settings = Readonly<Record<string, string | number | true>>;

/** Where a controller finds RouterOS, and what it logs in with. */
export interface RouterOs {
  host: string;
  port: number;
  /** In authorized_keys form. */
  hostKey: string;
  /** Path of a private key that may log in. */
  clientKeyFile?: string | undefined;
}

/** What a replica is started with. */
export interface ReplicaOptions {
  /** A folder of its own, for the socket. It is made. */
  folder: string;
  simulator: RouterOs;
  /** What the sidecars log in with. */
  kubeconfig: string;
  /** Settings of the controller, besides those that it cannot do without. */
  settings: Settings;
  /** What its machine is called. */
  name: string;
  /** The sidecars elect leaders, by leases in this namespace. This needs root. */
  electIn?: string | undefined;
  /** What stands between the controller and the API server. */
  proxy?: ApiProxy | undefined;
}

const CONTROLLER = "controller";

/** Quick to try again, so that tests need not wait for it. */
const common = ["--timeout=20s", "--retry-interval-start=200ms", "--retry-interval-max=2s", "--v=3"];
const sidecarArgs = {
  "csi-provisioner": ["--extra-create-metadata"],
  "csi-attacher": [],
  // Pods are not its business: a volume grows whether it is in use or not.
  "csi-resizer": ["--handle-volume-inuse-error=false"],
} as const;

/** Quick to take over. */
const election = [
  "--leader-election",
  "--leader-election-lease-duration=5s",
  "--leader-election-renew-deadline=3s",
  "--leader-election-retry-period=1s",
];

/** What a command is started by so that it finds itself on a host of this name: leaders are told apart by it. */
function onHost(name: string): string[] {
  return ["unshare", "--uts", "sh", "-c", `hostname ${name} && exec "$0" "$@"`];
}

/** What one pod of the controller has in it: the controller and its sidecars. Letting it go ends them. */
export class Replica implements AsyncDisposable {
  readonly #options: ReplicaOptions;
  /** What its processes of earlier lives have written. */
  readonly #past: { name: string; output: string }[] = [];
  #controller: LabProcess | undefined;
  #sidecars: KeptProgram[] = [];

  constructor(options: ReplicaOptions) {
    this.#options = options;
  }

  /** @throws while it is not started */
  get controller(): LabProcess {
    if (!this.#controller) throw new Error("the replica is not started");
    return this.#controller;
  }

  /** @throws when there is none */
  get proxy(): ApiProxy {
    if (!this.#options.proxy) throw new Error("there is no proxy: start the cluster with `proxy: true`");
    return this.#options.proxy;
  }

  /** Whether it was started and has not been ended. */
  get isUp(): boolean {
    return this.#controller !== undefined;
  }

  /** Path of the socket that CSI is served on. */
  get socket(): string {
    return `${this.#options.folder}/csi.sock`;
  }

  /** What was and is in it, with what each has written. */
  get outputs(): { name: string; output: string }[] {
    const now = [
      ...this.#sidecars,
      ...(this.#controller ? [{ name: CONTROLLER, output: this.#controller.output }] : []),
    ];
    return [...this.#past, ...now.map(({ name, output }) => ({ name, output }))];
  }

  /** What its controllers have written, one after the other. */
  get output(): string {
    return this.outputs.filter(({ name }) => name === CONTROLLER).map(({ output }) => output).join("\n");
  }

  /** Starts controller and sidecars. @param settings what is different in this life of the controller */
  async start(settings: Settings = {}): Promise<void> {
    const { folder, kubeconfig, electIn } = this.#options;
    await this.#startController(settings);
    const elected = electIn ? [...election, `--leader-election-namespace=${electIn}`] : [];
    for (const sidecar of Object.keys(sidecarArgs) as (keyof typeof sidecarArgs)[]) {
      const own = [`--csi-address=${this.socket}`, `--kubeconfig=${kubeconfig}`];
      const command = [await kubernetesTool(sidecar), ...own, ...common, ...elected, ...sidecarArgs[sidecar]];
      const [path = "", ...args] = electIn ? [...onHost(this.#options.name), ...command] : command;
      this.#sidecars.push(new KeptProgram({ name: sidecar, path, args, folder }));
    }
  }

  /** Kills all at once, as when the machine's power goes. Nothing is started again until {@linkcode start}. */
  crash(): Promise<void> {
    return this.#end("SIGKILL");
  }

  /** Kills the controller alone and starts it anew. Its sidecars end when their connection does, and are started again. */
  async restartController(settings: Settings = {}): Promise<void> {
    await this.killController();
    await this.#startController(settings);
  }

  /** Kills the controller alone. */
  async killController(): Promise<void> {
    this.controller.kill("SIGKILL");
    await this.#forget();
  }

  /** What the controller says at `/metrics`. */
  async metrics(): Promise<string> {
    const port = /metricsPort["=: ]+(\d+)/.exec(this.controller.output)?.[1];
    if (!port) throw new Error("the controller has not said at which port its metrics are");
    const answer = await fetch(`http://127.0.0.1:${port}/metrics`, { signal: AbortSignal.timeout(10_000) });
    const text = await answer.text();
    if (!answer.ok) throw new Error(`/metrics answers ${answer.status}: ${text}`);
    return text;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#end("SIGTERM");
  }

  async #end(signal: "SIGTERM" | "SIGKILL"): Promise<void> {
    const sidecars = this.#sidecars;
    this.#sidecars = [];
    if (signal === "SIGKILL") this.#controller?.kill(signal);
    await Promise.all(sidecars.map((sidecar) => sidecar.stop(signal)));
    this.#past.push(...sidecars.map(({ name, output }) => ({ name, output })));
    await this.#forget();
  }

  async #forget(): Promise<void> {
    if (!this.#controller) return;
    await this.#controller.stop();
    this.#past.push({ name: CONTROLLER, output: this.#controller.output });
    this.#controller = undefined;
  }

  async #startController(settings: Settings): Promise<void> {
    const { folder, simulator, name, electIn } = this.#options;
    await Deno.mkdir(folder, { recursive: true });
    await Deno.writeTextFile(`${folder}/host_key`, `${simulator.hostKey}\n`);
    const key = `${folder}/client_key`;
    await Deno.copyFile(simulator.clientKeyFile ?? "", key);
    this.#controller = await startProcess({
      mode: "controller",
      folder,
      by: electIn ? onHost(name) : [],
      settings: {
        "endpoint": `unix://${this.socket}`,
        "rds-address": simulator.host,
        "rds-port": simulator.port,
        "rds-key-file": key,
        "rds-host-key": `${folder}/host_key`,
        "metrics-address": "127.0.0.1:0",
        ...this.#options.settings,
        ...settings,
      },
      env: { CSI_MANAGED_NQN_PREFIX: PREFIX },
    });
  }
}
