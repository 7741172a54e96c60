import { Deadline, poll } from "../../../src/runtime/deadline.ts";
import type { Ran } from "../machines/agent.ts";
import { Machine } from "../machines/machine.ts";
import { patient } from "../machines/patience.ts";
import { BUSYBOX } from "./images.ts";

/** The address that pods find the API server at, and the port. */
export const API = { address: "10.96.0.1", port: 443 };
/** The host, as its guests see it. */
const HOST = "10.0.2.2";
const SOCKET = "/run/lab/containerd.sock";

/** How such a machine is made. */
export interface KubeletMachineOptions {
  name: string;
  folder: string;
  network: string[];
  address: string;
  /** Path of the kubelet's program. */
  kubelet: string;
  /** The kubelet's kubeconfig. */
  kubeconfig: string;
  /** The API server's port on the host. */
  apiPort: number;
  /** Archives of the images that pods are made from. */
  images: readonly string[];
  /** Taints that the node joins with, as `--register-with-taints` takes them. */
  taints?: string;
}

/** A machine with containerd and a kubelet, whose pods use the machine's own network. */
export class KubeletMachine {
  readonly machine: Machine;

  private constructor(machine: Machine) {
    this.machine = machine;
  }

  static async start(options: KubeletMachineOptions): Promise<KubeletMachine> {
    const { name, folder, network, address } = options;
    const machine = await Machine.start({
      ...{ name, folder, network, address, memory: 3072 },
      load: ["nvme-tcp", "loop", "crc32c-intel", "ext4", "xfs", "overlay"],
      onUp: (machine) => up(machine, options),
    });
    return new KubeletMachine(machine);
  }

  get name(): string {
    return this.machine.name;
  }

  /** Runs a script of the shell in a container. @returns its output. @throws with what it said when it fails */
  async inContainer(id: string, script: string): Promise<string> {
    const { code, stdout, stderr } = await this.run(id, "sh", "-euc", script);
    if (code !== 0) throw new Error(`in ${id} on ${this.name} '${script}' ended with ${code}: ${stderr}${stdout}`);
    return stdout.trimEnd();
  }

  /** Runs a program in a container, whatever its exit code. */
  async run(id: string, ...command: string[]): Promise<Ran> {
    const exec = `exec-${crypto.randomUUID()}`;
    const args = ["-a", SOCKET, "-n", "k8s.io", "task", "exec", "--exec-id", exec, id, ...command];
    return await this.machine.guest.run("ctr", args);
  }

  /** NQN and state of each of the kernel's sessions. */
  async sessions(): Promise<Record<string, string>> {
    const text = await this.machine.guest.sh(
      'for c in /sys/class/nvme/nvme*; do [ -e "$c" ] || continue; echo "$(cat $c/subsysnqn) $(cat $c/state)"; done',
    );
    return Object.fromEntries(text.split("\n").filter(Boolean).map((line) => line.split(" ")));
  }
}

async function up(machine: Machine, options: KubeletMachineOptions): Promise<void> {
  const { guest } = machine;
  const own = machine.folder;
  await guest.sh("mkdir -p /run/lab/cni/conf /etc/kubernetes");
  await guest.writeFile("/run/lab/containerd.toml", containerdConfig);
  // A network that no pod of ours uses, so that the node counts as ready.
  const cni = { cniVersion: "0.4.0", name: "none", plugins: [{ type: "loopback" }] };
  await guest.writeFile("/run/lab/cni/conf/none.conflist", JSON.stringify(cni));
  await guest.writeFile("/run/lab/kubelet.json", JSON.stringify(kubeletConfig));
  await machine.start("containerd", "containerd", ["-c", "/run/lab/containerd.toml"]);
  await guest.sh(`ip addr add ${API.address}/32 dev lo`);
  const listen = `TCP-LISTEN:${API.port},bind=${API.address},fork,reuseaddr`;
  await machine.start("to-the-api", "socat", [listen, `TCP:${HOST}:${options.apiPort}`]);
  using deadline = new Deadline(patient(120_000), `containerd on ${machine.name}`);
  await poll(async () => (await guest.run("test", ["-S", SOCKET])).code === 0 || undefined, {
    signal: deadline.signal,
    interval: 200,
  });
  for (const image of options.images) {
    await guest.sh(`ctr -a ${SOCKET} -n k8s.io image import ${image}`, { deadline: patient(240_000) });
  }
  await machine.start("kubelet", options.kubelet, [
    `--kubeconfig=${options.kubeconfig}`,
    "--config=/run/lab/kubelet.json",
    "--root-dir=/var/lib/kubelet",
    `--cert-dir=/run/lab/certificates`,
    `--hostname-override=${machine.name}`,
    `--node-ip=${options.address}`,
    ...options.taints ? [`--register-with-taints=${options.taints}`] : [],
    "--v=2",
  ], { cwd: own });
}

const containerdConfig = `
version = 2
root = "/run/lab/root"
state = "/run/lab/state"
[grpc]
  address = "${SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "${BUSYBOX}"
  # In a machine whose first process is no init the kernel refuses to lower it.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/run/lab/cni/bin"
    conf_dir = "/run/lab/cni/conf"
`;

const kubeletConfig = {
  apiVersion: "kubelet.config.k8s.io/v1beta1",
  kind: "KubeletConfiguration",
  authentication: { anonymous: { enabled: true }, webhook: { enabled: false } },
  authorization: { mode: "AlwaysAllow" },
  cgroupDriver: "cgroupfs",
  cgroupsPerQOS: false,
  enforceNodeAllocatable: [],
  failSwapOn: false,
  containerRuntimeEndpoint: `unix://${SOCKET}`,
  evictionHard: {},
  localStorageCapacityIsolation: false,
  // Notices sooner that something is to be done.
  nodeStatusUpdateFrequency: "4s",
  syncFrequency: "10s",
  volumeStatsAggPeriod: "10s",
};
