/** A node for tests on which nothing is wrong, in one folder: trees of the kernel's shape, records, the driver at work, a Kubernetes. */
import { type LabFolder, labFolder } from "../lab/folder.ts";
import { Identity, Node } from "../../proto/gen/csi_pb.ts";
import { type Config, readConfig } from "../../src/config_read.ts";
import { identityService } from "../../src/csi/identity.ts";
import { CsiServer } from "../../src/csi/server.ts";
import { Kube, type KubeObject } from "../../src/kube/client.ts";
import { Commands, NotInstalled, type Output } from "../../src/runtime/command.ts";
import { serveHttp } from "../../src/runtime/http.ts";
import { NodeMetrics } from "../../src/runtime/node_metrics.ts";
import { Records, type StagingRecord } from "../../src/staging/records.ts";
import { type NodeWorld, nodeWorld } from "../../src/diagnose/node_world.ts";

export const version = "1.2.3";
export const prefix = "nqn.2000-02.com.mikrotik:pvc-";
const hostNqn = "nqn.2014-08.org.nvmexpress:uuid:7d444840-9dc0-11d1-b245-5ffdce74fad2";

export function idOf(number: number): string {
  return `pvc-${number.toString(16).padStart(28, "0")}`;
}
export function nqnOf(number: number): string {
  return prefix + idOf(number).slice(4);
}

/** What Kubernetes has: objects by their path; a path of a list gives all below it. */
export type Objects = Map<string, KubeObject & Record<string, unknown>>;

/** A client of a Kubernetes that has these objects. */
export function kubeOver(objects: Objects): Kube {
  const answer = (status: number, body: unknown) => new Response(JSON.stringify(body), { status });
  return new Kube({
    server: "http://kubernetes",
    namespace: "rds-csi",
    headers: () => Promise.resolve({}),
    deadline: 5000,
    fetch: (url) => {
      const { pathname } = new URL(url);
      const one = objects.get(pathname);
      const items = [...objects].filter(([path]) => path.startsWith(`${pathname}/`)).map(([, object]) => object);
      if (one) return Promise.resolve(answer(200, one));
      if (/s$/.test(pathname)) {
        return Promise.resolve(answer(200, { metadata: { resourceVersion: "5" }, items }));
      }
      return Promise.resolve(answer(404, { reason: "NotFound", message: `${pathname} not found` }));
    },
  });
}

/** Programs that are all there and do nothing. */
export class SpeakingCommands extends Commands {
  readonly missing = new Set<string>();
  readonly started: string[] = [];

  override run(program: string, args: readonly string[]): Promise<Output> {
    this.started.push([program, ...args].join(" "));
    if (this.missing.has(program)) return Promise.reject(new NotInstalled(`'${program}' is not there`));
    return Promise.resolve({ code: 0, stdout: `${program} 2.3.4\n`, stderr: "" });
  }
}

/** The node; each test takes one thing of it away, or puts one to it. */
export class HealthyNode implements AsyncDisposable {
  readonly folder: string;
  readonly objects: Objects = new Map();
  readonly commands = new SpeakingCommands();
  readonly metrics = new NodeMetrics(version);
  readonly measured = { breakersOpen: 0, commandsStuck: 0 };
  readonly records: Records;
  env: Record<string, string> = {};
  ready = true;
  readonly #lab: LabFolder;
  readonly #ending = new AsyncDisposableStack();
  readonly #mounts: string[] = ["22 1 8:1 / / rw - ext4 /dev/sda1 rw"];
  #port = 0;
  #target = 0;

  private constructor(lab: LabFolder) {
    this.#lab = lab;
    this.folder = lab.path;
    this.records = new Records(`${lab.path}/plugin/volumes`);
  }

  /** Two volumes are staged: 1 has a filesystem, 2 is a block volume. */
  static async start(): Promise<HealthyNode> {
    const node = new HealthyNode(await labFolder("diagnose"));
    await node.#machine();
    await node.#driver();
    for (const number of [1, 2]) await node.#volume(number, number === 1 ? "filesystem" : "block");
    node.objects.set("/api/v1/nodes/node-1", { metadata: { name: "node-1", uid: "u-1" } });
    return node;
  }

  /** The world as the checks see it. */
  world(): NodeWorld {
    const { config, problems } = this.request();
    return nodeWorld(config, { problems, version, commands: this.commands, kube: kubeOver(this.objects) });
  }

  /** What the node's container has as its environment. */
  environment(): Record<string, string> {
    const { folder } = this;
    return {
      CSI_MANAGED_NQN_PREFIX: prefix,
      RDS_CSI_NODE_ID: "node-1",
      RDS_CSI_PROC_ROOT: `${folder}/proc`,
      RDS_CSI_SYSFS_ROOT: `${folder}/sys`,
      RDS_CSI_DEV_ROOT: `${folder}/dev`,
      RDS_CSI_NVME_ETC_ROOT: `${folder}/etc`,
      RDS_CSI_KUBELET_DIR: `${folder}/kubelet`,
      RDS_CSI_ENDPOINT: `unix://${folder}/plugin/csi.sock`,
      RDS_CSI_METRICS_ADDRESS: `127.0.0.1:${this.#port}`,
      ...this.env,
    };
  }

  /** What the command line comes to, in this node's environment. */
  request(...words: string[]): { config: Config; problems: string[] } {
    const request = readConfig(["diagnose", ...words], this.environment());
    if (request.kind !== "command") throw new Error(JSON.stringify(request));
    return request;
  }

  /** Puts text into a file of the node's trees. */
  async put(path: string, text: string): Promise<void> {
    const whole = `${this.folder}/${path}`;
    await Deno.mkdir(whole.slice(0, whole.lastIndexOf("/")), { recursive: true });
    await Deno.writeTextFile(whole, `${text}\n`);
  }

  /** Adds a line to mountinfo: `259:1 /path`, and what is different from an ordinary mount of an ext4. */
  async mount(majorMinor: string, target: string, superOptions = "rw"): Promise<void> {
    this.#mounts.push(`${this.#mounts.length + 30} 22 ${majorMinor} / ${target} rw - ext4 /dev/x ${superOptions}`);
    for (const process of ["1", "self"]) await this.put(`proc/${process}/mountinfo`, this.#mounts.join("\n"));
  }

  /** Takes lines of mountinfo away. */
  async unmount(target: string): Promise<void> {
    this.#mounts.splice(0, Infinity, ...this.#mounts.filter((line) => line.split(" ")[4] !== target));
    for (const process of ["1", "self"]) await this.put(`proc/${process}/mountinfo`, this.#mounts.join("\n"));
  }

  /** A session as the kernel shows it: device 259:<number>. */
  async session(number: number, options: { nqn?: string; host?: string; state?: string } = {}): Promise<void> {
    const { nqn = nqnOf(number), host = hostNqn, state = "live" } = options;
    const controller = `sys/class/nvme/nvme${number}`;
    const hostid = "7d444840-9dc0-11d1-b245-5ffdce74fad2";
    for (const [name, text] of Object.entries({ subsysnqn: nqn, state, hostnqn: host, hostid })) {
      await this.put(`${controller}/${name}`, text);
    }
    const subsystem = `sys/class/nvme-subsystem/nvme-subsys${number}`;
    await this.put(`${subsystem}/subsysnqn`, nqn);
    for (const [name, text] of Object.entries({ nsid: "1", size: "2097152", dev: `259:${number}` })) {
      await this.put(`${subsystem}/nvme${number}n1/${name}`, text);
    }
    await Deno.mkdir(`${this.folder}/${subsystem}/nvme${number}n1/holders`, { recursive: true });
  }

  /** The kernel has it no more. */
  async endSession(number: number): Promise<void> {
    for (const name of [`nvme/nvme${number}`, `nvme-subsystem/nvme-subsys${number}`]) {
      await Deno.remove(`${this.folder}/sys/class/${name}`, { recursive: true });
    }
  }

  attach(number: number, nqn = nqnOf(number)): void {
    this.objects.set(`/apis/storage.k8s.io/v1/volumeattachments/csi-${number}`, {
      metadata: { name: `csi-${number}` },
      spec: {
        attacher: "rds.csi.srvlab.io",
        nodeName: "node-1",
        source: { persistentVolumeName: idOf(number) },
      },
      status: { attached: true, attachmentMetadata: { volume_id: idOf(number), nvme_nqn: nqn } },
    });
  }

  detach(number: number): void {
    this.objects.delete(`/apis/storage.k8s.io/v1/volumeattachments/csi-${number}`);
  }

  stagingPath(number: number): string {
    return `${this.folder}/kubelet/plugins/kubernetes.io/csi/rds.csi.srvlab.io/${idOf(number)}/globalmount`;
  }

  recordOf(number: number, kind: StagingRecord["kind"]): StagingRecord {
    const nqn = nqnOf(number);
    const target = { nqn, address: "127.0.0.1", port: this.#target, ctrlLossTmo: -1, reconnectDelay: 5 };
    return {
      ...{ volumeId: idOf(number), nqn, kind, majorMinor: `259:${number}`, stagingPath: this.stagingPath(number) },
      target: { ...target, keepAliveTmo: 0 },
    };
  }

  /** Ends the driver: nobody answers on its socket and its port any more. */
  async endDriver(): Promise<void> {
    await this.#ending.disposeAsync();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#ending.disposeAsync();
    await this.#lab[Symbol.asyncDispose]();
  }

  async #machine(): Promise<void> {
    for (const name of ["sys/class/nvme", "sys/module/nvme_tcp", "dev", "etc", "kubelet/pods", "plugin"]) {
      await Deno.mkdir(`${this.folder}/${name}`, { recursive: true });
    }
    await this.put("proc/sys/kernel/osrelease", "6.1.0-test");
    await this.put("etc/hostnqn", hostNqn);
    await this.mount("0:5", "/dev");
  }

  async #driver(): Promise<void> {
    const { metrics, measured } = this;
    const server = new CsiServer({ socket: `${this.folder}/plugin/csi.sock`, metrics });
    const name = "rds.csi.srvlab.io";
    server.add(Identity, identityService({ name, version, expansion: "online", ready: () => this.ready }));
    server.add(Node, { nodeGetInfo: () => Promise.resolve({ nodeId: "node-1" }) });
    await server.start();
    this.#ending.defer(() => server.stop(500));
    metrics.observe({ breakersOpen: () => measured.breakersOpen, commandsStuck: () => measured.commandsStuck });
    metrics.registered.set(1);
    const http = serveHttp({ host: "127.0.0.1", port: 0, metrics, ready: () => this.ready });
    this.#ending.defer(() => http.close());
    this.#port = http.port;
    const target = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    this.#ending.defer(() => target.close());
    this.#target = target.addr.port;
  }

  async #volume(number: number, kind: StagingRecord["kind"]): Promise<void> {
    await this.session(number);
    await Deno.mkdir(this.stagingPath(number), { recursive: true });
    if (kind === "filesystem") await this.mount(`259:${number}`, this.stagingPath(number));
    await this.records.write(this.recordOf(number, kind));
    this.attach(number);
  }
}
