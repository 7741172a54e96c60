import { Commands } from "../../../src/runtime/command.ts";
import { objectsOf, render, type Values } from "../../chart/chart.ts";
import manifest from "../../../deno.json" with { type: "json" };
import { PREFIX } from "../driver.ts";
import { image } from "../image.ts";
import type { KubeClient } from "../kubernetes/client.ts";
import { controllerUser, DRIVER, HOME, replicaOf, reportOf, WORK } from "../kubernetes/cluster.ts";
import { type ControlPlane, startControlPlane } from "../kubernetes/control_plane.ts";
import { admin, type User } from "../kubernetes/credentials.ts";
import * as objects from "../kubernetes/objects.ts";
import type { Replica } from "../kubernetes/replica.ts";
import { kubernetesTool } from "../kubernetes/tools.ts";
import { Network } from "../machines/network.ts";
import { TARGET_ADDRESS, TargetMachine } from "../machines/target_machine.ts";
import { busyboxImage } from "./images.ts";
import { KubeletMachine } from "./kubelet_machine.ts";

/** Pods on real kubelets: the control plane, the driver's controller and its sidecars on the host, nodes in machines. */
export interface PodCluster extends AsyncDisposable {
  controlPlane: ControlPlane;
  /** For whoever may do everything. */
  kube: KubeClient;
  /** Path of a kubeconfig of theirs. */
  kubeconfig: string;
  target: TargetMachine;
  nodes: readonly [KubeletMachine, KubeletMachine];
  replica: Replica;
  /** Runs kubectl. @returns what it prints. @throws with what it says when it fails */
  kubectl(...args: string[]): Promise<string>;
  report(): string;
}

const NODES = ["node1", "node2"] as const;
/** A taint that nodes join with and that the driver takes off. */
export const STARTUP_TAINT = "rds.csi.srvlab.io/agent-not-ready";

/** The values that the chart is installed with: quick to notice and to try again, so that tests need not wait for it. */
const values: Values = {
  image: { repository: "localhost/rds-csi", tag: manifest.version, pullPolicy: "Never" },
  rds: { managementIP: "127.0.0.1", storageIP: TARGET_ADDRESS, nqnPrefix: PREFIX },
  node: { logLevel: "DEBUG", settings: { "watch-interval": "5s" } },
};

/** The class that scenarios use, besides the chart's own: a session notices soon that its server is away. */
export const QUICK = "quick";

/** Starts everything in a folder. Letting it go ends all of it. */
export async function startPodCluster(folder: string): Promise<PodCluster> {
  await using stack = new AsyncDisposableStack();
  const users: User[] = NODES.map((name) => ({ name: `system:node:${name}`, groups: ["system:nodes"] }));
  const [archive, kubelet] = await Promise.all([image(), kubernetesTool("kubelet")]);
  const controlPlane = stack.use(
    await startControlPlane({
      folder: `${folder}/control-plane`,
      users: [...users, controllerUser],
      controllers: ["*"],
      // A node that gives no sign is taken for away after 20 s instead of 50.
      managerArgs: ["--node-monitor-grace-period=20s", "--use-service-account-credentials=false"],
      scheduler: true,
    }),
  );
  const apiPort = Number(new URL(controlPlane.url).port);
  const network = new Network(folder);
  const images = [archive, await busyboxImage(folder)];
  const starting = {
    target: TargetMachine.start(folder, { network: network.hub(NODES), settings: { "pool-size": "100G" } }),
    nodes: NODES.map(async (name, at) => {
      const path = `${folder}/${name}.kubeconfig`;
      return await KubeletMachine.start({
        ...{ name, folder, kubelet, apiPort, images },
        network: network.node(at + 1, name),
        address: `10.77.0.${11 + at}`,
        kubeconfig: await controlPlane.kubeconfig(users[at] as User, { path, url: `https://10.96.0.1:443` }),
        taints: `${STARTUP_TAINT}=:NoSchedule`,
      });
    }),
  };
  const kubeconfig = await controlPlane.kubeconfig(admin);
  const kubectlPath = await kubernetesTool("kubectl");
  const kubectl = (...args: string[]) => run(kubectlPath, [`--kubeconfig=${kubeconfig}`, ...args]);
  const kube = controlPlane.admin;
  const installing = install(folder, { kube, kubectl });
  const started = await Promise.allSettled([starting.target, ...starting.nodes]);
  for (const each of started) if (each.status === "fulfilled") stack.use(each.value.machine);
  const failed = [...started, ...await Promise.allSettled([installing])].find(({ status }) => status === "rejected");
  if (failed) throw (failed as PromiseRejectedResult).reason;
  const target = await starting.target;
  const nodes = await Promise.all(starting.nodes) as unknown as PodCluster["nodes"];

  const clientKeyFile = `${folder}/rds_key`;
  const key = await target.machine.guest.readFile(target.ready.clientKeyFile ?? "");
  await Deno.writeTextFile(clientKeyFile, key, { mode: 0o600 });
  const settings = { "rds-create-deadline": "15s", "rds-delete-deadline": "15s", "lease-duration": "5s" };
  const made = { name: "replica-1", folder, controlPlane, simulator: { ...target.ready, clientKeyFile }, stack };
  const replica = stack.use(await replicaOf({ settings }, made));
  await replica.start();
  const report = () =>
    [target, ...nodes].map(({ machine }) => machine.report(150)).join("\n") + reportOf(controlPlane, [replica]);
  try {
    for (const { name } of nodes) await untilUsable(kube, name);
  } catch (error) {
    throw new Error(`${error instanceof Error ? error.message : error}\n${report()}`, { cause: error });
  }
  const all = stack.move();
  return {
    ...{ controlPlane, kube, kubeconfig, target, nodes, replica, kubectl, report },
    [Symbol.asyncDispose]: () => all.disposeAsync(),
  };
}

/** Milliseconds until a node with the driver must be there: its pod is made, its image unpacked. */
const NODE_PATIENCE = 600_000;

/** Waits until pods may be put on a node: the kubelet says that it is ready, and the driver's taint is gone. */
export async function untilUsable(kube: KubeClient, name: string): Promise<void> {
  const isUsable = ({ spec, status }: objects.Node) =>
    status?.conditions?.some(({ type, status }) => type === "Ready" && status === "True") === true &&
    (spec?.taints ?? []).length === 0;
  await kube.until(objects.nodes, { name }, isUsable, NODE_PATIENCE);
}

/** Installs what the chart renders, but for the controller, which runs on the host. */
async function install(
  folder: string,
  { kube, kubectl }: Pick<PodCluster, "kube" | "kubectl">,
): Promise<void> {
  for (const name of [WORK, HOME]) await kube.create(objects.namespaces, { metadata: { name } });
  // Nodes' pods are privileged, and the system's priority classes are for whoever may have them.
  const rendered = objectsOf(await render(values)).filter(({ kind }) => kind !== "Deployment");
  const file = `${folder}/manifests.json`;
  await Deno.writeTextFile(file, JSON.stringify({ apiVersion: "v1", kind: "List", items: rendered }));
  await kubectl("apply", "--server-side", `--filename=${file}`);
  await kube.create(objects.storageClasses, {
    metadata: { name: QUICK },
    provisioner: DRIVER,
    allowVolumeExpansion: true,
    volumeBindingMode: "Immediate",
    parameters: { nvmeAddress: TARGET_ADDRESS, keepAliveTmo: "5", reconnectDelay: "1" },
  });
}

const commands = new Commands();

async function run(program: string, args: readonly string[]): Promise<string> {
  const { code, stdout, stderr } = await commands.run(program, args, { deadline: 300_000 });
  if (code !== 0) throw new Error(`${args.join(" ")} failed: ${stderr}${stdout}`);
  return stdout;
}
