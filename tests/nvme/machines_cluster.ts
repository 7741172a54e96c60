import { pods } from "../lab/kubernetes/objects.ts";
import {
  attach,
  attached,
  bound,
  detach as endAttachment,
  makeClaim,
  makeClass,
  removeClaim,
} from "../kubernetes/steps.ts";
import { whyNoGo } from "../lab/go_tools.ts";
import type { ApiProxy } from "../lab/kubernetes/api_proxy.ts";
import type { KubeClient } from "../lab/kubernetes/client.ts";
import { HOME, nodeUser, replicaOf, reportOf, startKubernetes, WORK } from "../lab/kubernetes/cluster.ts";
import type { Replica } from "../lab/kubernetes/replica.ts";
import type { GuestProcess } from "../lab/machines/guest.ts";
import { whyNoMachines } from "../lab/machines/kernel.ts";
import type { Settings } from "../lab/machines/driver_in_guest.ts";
import { type Machines, startMachines } from "../lab/machines/machines.ts";
import type { NodeMachine } from "../lab/machines/node_machine.ts";
import { TARGET_ADDRESS } from "../lab/machines/target_machine.ts";
import { patient } from "../lab/machines/patience.ts";
import { type ScenarioOn, scenariosOn } from "./machines_scenarios.ts";
import {
  type Attached,
  dataOf,
  GiB,
  given,
  type Kind,
  type Place,
  publish,
  stage,
  unstage,
  until,
  type Volume,
} from "./machines_steps.ts";

/** Machines whose nodes, and the controller on the host, talk to a real Kubernetes API. */
export interface MachineCluster extends AsyncDisposable {
  machines: Machines;
  /** For whoever may do everything. */
  kube: KubeClient;
  /** The controller with its sidecars. */
  replica: Replica;
  nodes: readonly [NodeMachine, NodeMachine];
  /** What stands between a node and the API server. */
  apiOf(node: NodeMachine): ApiProxy;
  report(): string;
}

/** The host, as its guests see it. */
const HOST = "10.0.2.2";
const NODES = ["node1", "node2"] as const;

/** A cluster for the tests of a file. */
export function clusterScenarios(node: Settings): ScenarioOn<MachineCluster> {
  return scenariosOn((folder) => startMachineCluster(folder, node), missing);
}

const missing = await whyNoMachines() ?? await whyNoGo();

async function startMachineCluster(folder: string, node: Settings): Promise<MachineCluster> {
  await using stack = new AsyncDisposableStack();
  // The advertised address is in the server's certificate too.
  const apiServerArgs = [`--advertise-address=${HOST}`, "--disable-admission-plugins=ServiceAccount"];
  const controlPlane = stack.use(await startKubernetes(folder, { nodes: NODES, controlPlane: { apiServerArgs } }));
  const proxies = new Map<string, ApiProxy>();
  for (const name of NODES) proxies.set(name, stack.use(await controlPlane.proxy()));
  const proxyOf = (name: string) => {
    const proxy = proxies.get(name);
    if (!proxy) throw new Error(`there is no ${name}`);
    return proxy;
  };
  const machines = stack.use(
    await startMachines({
      ...{ folder, node, nodes: NODES.length, withoutController: true },
      simulator: { "pool-size": "100G" },
      account: (name) => ({
        env: { KUBERNETES_SERVICE_HOST: HOST, KUBERNETES_SERVICE_PORT: new URL(proxyOf(name).url).port },
        files: controlPlane.account(nodeUser, HOME),
      }),
    }),
  );
  const { ready, machine: { guest } } = machines.target;
  const clientKeyFile = `${folder}/rds_key`;
  await Deno.writeTextFile(clientKeyFile, await guest.readFile(ready.clientKeyFile ?? ""), { mode: 0o600 });
  const settings = { "rds-create-deadline": "15s", "rds-delete-deadline": "15s" };
  const made = { name: "replica-1", folder, controlPlane, simulator: { ...ready, clientKeyFile }, stack };
  const replica = stack.use(await replicaOf({ settings }, made));
  await replica.start();
  const [first, second] = machines.nodes;
  if (!first || !second) throw new Error("two nodes were asked for");
  const all = stack.move();
  return {
    machines,
    kube: controlPlane.admin,
    replica,
    nodes: [first, second],
    apiOf: ({ name }) => proxyOf(name),
    report: () => `${machines.report()}${reportOf(controlPlane, [replica])}`,
    [Symbol.asyncDispose]: () => all.disposeAsync(),
  };
}

/** A volume of a claim. */
export interface Claimed extends Volume {
  claim: string;
}

/** A claim and its volume of 1 GiB; nodes notice soon when it is away, and try every second to have it back. */
export async function claimed(cluster: MachineCluster, claim: string, kind: Kind): Promise<Claimed> {
  const className = `quick-${kind}`;
  const fsType = kind === "block" ? {} : { "csi.storage.k8s.io/fstype": kind };
  await makeClass(cluster, className, {
    ...fsType,
    ...{ nvmeAddress: TARGET_ADDRESS, keepAliveTmo: "5", reconnectDelay: "1" },
  });
  const volumeMode = kind === "block" ? "Block" : "Filesystem";
  await makeClaim(cluster, claim, { storageClassName: className, volumeMode });
  const { name: pv, id, csi } = await bound(cluster, claim);
  return { claim, id, pv, kind, size: GiB, shared: false, context: csi.volumeAttributes ?? {} };
}

function attachmentOf({ pv }: Pick<Volume, "pv">, node: NodeMachine): string {
  return `${pv}-${node.name}`;
}

/** Gives a volume to a node by a VolumeAttachment. */
export async function attachTo(cluster: MachineCluster, volume: Volume, node: NodeMachine): Promise<Attached> {
  const name = attachmentOf(volume, node);
  await attach(cluster, name, { node: node.name, volume: volume.pv });
  return await given(volume, node, await attached(cluster, name));
}

/** Ends the VolumeAttachment, as Kubernetes does when the node has unstaged, or when it waits for the node no longer. */
export async function detachFrom(cluster: MachineCluster, volume: Volume, node: NodeMachine): Promise<void> {
  await endAttachment(cluster, attachmentOf(volume, node));
}

/** From a volume to a pod's place of it on a node. @param pod a UID */
export async function upOn(
  cluster: MachineCluster,
  volume: Volume,
  { node, pod = crypto.randomUUID() }: { node: NodeMachine; pod?: string },
): Promise<Place> {
  const attached = await attachTo(cluster, volume, node);
  await stage(attached);
  return await publish(attached, pod);
}

/** Unstages a volume, whose pods are gone, and takes it from the node. */
export async function takenFrom(cluster: MachineCluster, attached: Attached): Promise<void> {
  await unstage(attached);
  await attached.node.untilSession(attached.nqn, "gone", patient(10_000));
  await detachFrom(cluster, attached, attached.node);
}

/** Deletes claims, and waits until their volumes are gone. */
export async function removed(cluster: MachineCluster, volumes: readonly Claimed[]): Promise<void> {
  await Promise.all(volumes.map(({ claim }) => removeClaim(cluster, claim)));
}

/** A pod that the API has on a node. It goes at once when it is deleted. @returns its UID */
export async function makePod({ kube }: MachineCluster, name: string, node: NodeMachine): Promise<string> {
  const spec = { nodeName: node.name, containers: [{ name: "main", image: "none" }], terminationGracePeriodSeconds: 0 };
  const { metadata } = await kube.create(pods, { metadata: { name, namespace: WORK }, spec });
  if (!metadata.uid) throw new Error(`the pod ${name} has no UID`);
  return metadata.uid;
}

/** Deletes a pod, and waits until the API does not have it any more. */
export async function removePod({ kube }: MachineCluster, name: string): Promise<void> {
  await kube.delete(pods, { name, namespace: WORK });
  await kube.gone(pods, { name, namespace: WORK });
}

/** The value of one of a node's metrics; undefined while it is not there. @param name with its labels, without `rds_csi_` */
export async function figureOf(node: NodeMachine, name: string): Promise<number | undefined> {
  const line = (await node.metrics()).split("\n").find((line) => line.startsWith(`rds_csi_${name} `));
  return line === undefined ? undefined : Number(line.slice(line.lastIndexOf(" ")));
}

/** Makes a session with nvme-cli, as nobody of the driver does. */
export async function connectByHand(node: NodeMachine, nqn: string): Promise<void> {
  await node.machine.guest.sh(`nvme connect -t tcp -a ${TARGET_ADDRESS} -s 4420 -n ${nqn} -l -1 -c 1 -k 5 >&2`);
  await node.untilSession(nqn, "live");
}

/** Path of the device of a session, once the kernel shows it. */
export async function deviceOf(node: NodeMachine, nqn: string): Promise<string> {
  return await node.machine.guest.sh(
    `for n in $(seq 100); do for s in /sys/class/nvme-subsystem/*; do [ "$(cat $s/subsysnqn)" = ${nqn} ] || continue; ` +
      `for d in $s/nvme*n*; do [ ! -b /dev/\${d##*/} ] || { echo /dev/\${d##*/}; exit; }; done; done; sleep 0.1; done; exit 1`,
  );
}

/** What a volume has on a node: its session's state, its mounts and its record. */
export async function tracesOf(node: NodeMachine, { id, pv }: Volume, nqn: string) {
  const { guest } = node.machine;
  const session = (await node.controllers()).find((each) => each.nqn === nqn)?.state;
  const mounts = await guest.quick(`grep -e ${id} -e ${pv} /proc/1/mountinfo | cut -d ' ' -f 5 || true`);
  const record = await guest.quick(`cat ${recordOf(id)} 2>/dev/null || true`);
  return { session, mounts: mounts.split("\n").filter(Boolean), record: record ? JSON.parse(record) : undefined };
}

/** Nothing of a volume is on a node. */
export const nothing = { session: undefined, mounts: [], record: undefined };

function recordOf(id: string): string {
  return `/var/lib/kubelet/plugins/rds.csi.srvlab.io/volumes/${id}.json`;
}

/** A program that writes to the first 8 MiB of a place, or to another file, until it meets an error. */
export async function writer(place: Place, how: "synced" | "buffered"): Promise<GuestProcess> {
  const path = dataOf(place, how === "synced" ? "data" : "buffered");
  // What is no longer there is not made anew as a file.
  const conversions = `notrunc,nocreat${how === "synced" ? ",fsync" : ""}`;
  const command = `dd if=/dev/zero of='${path}' bs=64k count=16 seek=$((n % 8 * 16)) conv=${conversions} status=none`;
  // The kubelet's loop device keeps a block volume open for as long as a pod has it. Whoever closes such a device last waits
  // in the kernel for the server, and meanwhile nvme-cli 2.3 hangs for all volumes: it opens every device.
  const script = `[ -e '${path}' ] || touch '${path}'; [ ! -b '${path}' ] || exec 3<>'${path}'; n=0; ` +
    `while :; do ${command} || exit 1; echo "round $((++n))"; sleep 0.05; done`;
  return await place.node.machine.start(`${how}-${place.pv}`, "bash", ["-c", script]);
}

/** How often the kernel was refused by the server while it tried to have a session back. */
export async function refusals(node: NodeMachine): Promise<number> {
  return Number(await node.machine.guest.quick("dmesg | grep -c 'Connect Invalid Data Parameter' || true"));
}

/** As whom the kernel connected a session. */
async function hostOf(node: NodeMachine, nqn: string): Promise<{ nqn: string; id: string }> {
  const controller = (await node.controllers()).find((each) => each.nqn === nqn)?.name;
  const text = await node.machine.guest.sh(`cd /sys/class/nvme/${controller}; cat hostnqn hostid`);
  const [host = "", id = ""] = text.split("\n");
  return { nqn: host, id };
}

/** As whom each node connects when it stages a volume for a moment. */
export async function hostsOf(cluster: MachineCluster, nodes: readonly NodeMachine[], claim: string) {
  return await Promise.all(nodes.map(async (node) => {
    const volume = await claimed(cluster, `${claim}-${node.name}`, "block");
    const attached = await attachTo(cluster, volume, node);
    await stage(attached);
    const host = await hostOf(node, attached.nqn);
    await takenFrom(cluster, attached);
    await removed(cluster, [volume]);
    return host;
  }));
}

/** Runs a script on the device (`DEVICE`) of a volume while the driver has no session of it. @returns what it says */
export async function workOnDevice({ node, nqn }: Attached, script: string): Promise<string> {
  const { guest } = node.machine;
  await connectByHand(node, nqn);
  const said = await guest.sh(script.replaceAll("DEVICE", await deviceOf(node, nqn)), { deadline: patient(120_000) });
  await guest.sh(`nvme disconnect -n ${nqn} >&2`);
  await node.untilSession(nqn, "gone");
  return said;
}

/** Waits until a node has nothing of a volume any more. */
export async function untilClean(place: Attached): Promise<void> {
  await until(`${place.node.name} to have nothing of ${place.id} any more`, async () => {
    const { session, mounts, record } = await tracesOf(place.node, place, place.nqn);
    return session === undefined && mounts.length === 0 && record === undefined || undefined;
  }, patient(150_000));
}
