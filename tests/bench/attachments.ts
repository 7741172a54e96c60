import { Controller, VolumeCapability_AccessMode_Mode as Mode } from "../../proto/gen/csi_pb.ts";
import { type Client, connect } from "../../src/csi/rpc.ts";
import { pause, throwIfAborted } from "../../src/runtime/deadline.ts";
import { startController } from "../lab/driver.ts";
import { type ControlPlane, startControlPlane } from "../lab/kubernetes/control_plane.ts";
import { admin } from "../lab/kubernetes/credentials.ts";
import { handleOf, makeAttachments } from "../lab/kubernetes/many.ts";
import { makeNode } from "../lab/kubernetes/nodes.ts";
import * as objects from "../lab/kubernetes/objects.ts";
import { Program } from "../lab/kubernetes/program.ts";
import { kubernetesTool } from "../lab/kubernetes/tools.ts";
import type { LabProcess } from "../lab/process.ts";
import { digits, median, milliseconds, progress, table } from "./figures.ts";
import { type Scope, startSimulator } from "./laboratory.ts";
import { plant } from "./listing.ts";
import { memoryOf } from "./starting.ts";

const DRIVER = "rds.csi.srvlab.io";
const HOME = "rds-csi";
const NODES = ["node-a", "node-b", "node-c"];
/** Volumes that the attacher attaches and detaches. */
const MOVED = 300;
/** Attachments of ReadWriteOnce and of ReadWriteMany volumes that are tried, each, for their access mode. */
const TRIED = 20;
/** Milliseconds without a call before memory is read. */
const IDLE = 5000;

/** A real API server, the driver's controller at it, and a simulator with volumes. */
interface Kubernetes extends Scope {
  folder: string;
  plane: ControlPlane;
  simulator: LabProcess;
  /** How many volumes are for the rebuild; {@linkcode MOVED} more, behind them, are for the attacher. */
  count: number;
}

/** What depends on Kubernetes: attaching and detaching with the real attacher, and the rebuild at the start. */
export async function attachments(folder: string, scope: Scope): Promise<string> {
  const counts = scope.quick ? [0, 1000] : [0, 1000, 10_000];
  const count = Math.max(...counts);
  await Deno.mkdir(folder);
  plant(`${folder}/pool`, count + MOVED);
  await using simulator = await startSimulator(folder);
  await using plane = await startControlPlane({ folder: `${folder}/control-plane`, users: [] });
  const { admin: kube } = plane;
  await kube.create(objects.namespaces, { metadata: { name: HOME } });
  const spec = { attachRequired: true, podInfoOnMount: false };
  await kube.create(objects.csiDrivers, { metadata: { name: DRIVER }, spec });
  for (const name of NODES) await makeNode(kube, { name, driver: DRIVER });
  const kubernetes = { ...scope, folder, plane, simulator, count };
  // The attacher first: it would wait for its turn behind whatever is there.
  return await attacher(kubernetes) + await rebuilds(kubernetes, counts);
}

async function controllerOf({ folder, plane, simulator }: Kubernetes): Promise<LabProcess> {
  const kubeconfig = await plane.kubeconfig(admin);
  return await startController(folder, simulator, `${folder}/controller.sock`, {
    standalone: "false",
    kubeconfig,
    namespace: HOME,
  });
}

/** A volume of the pool as Kubernetes knows it. */
async function makeVolume({ plane }: Kubernetes, number: number): Promise<void> {
  const csi = { driver: DRIVER, volumeHandle: handleOf(number) };
  await plane.admin.create(objects.persistentVolumes, {
    metadata: { name: `moved-${number}` },
    spec: { accessModes: ["ReadWriteOnce"], capacity: { storage: "1Gi" }, volumeMode: "Block", csi },
  });
}

/** Asks for it on a node, as Kubernetes does for a pod. */
async function ask({ plane }: Kubernetes, number: number): Promise<void> {
  const name = `moved-${number}`;
  const spec = { attacher: DRIVER, nodeName: NODES[0] ?? "", source: { persistentVolumeName: name } };
  await plane.admin.create(objects.volumeAttachments, { metadata: { name }, spec });
}

const settings = [
  { name: "as it comes (5 requests/s)", args: [], many: 20 },
  {
    name: "--kube-api-qps=1000 --worker-threads=10",
    args: ["--kube-api-qps=1000", "--kube-api-burst=1000"],
    many: MOVED,
  },
  {
    name: "--kube-api-qps=1000 --worker-threads=50",
    args: ["--kube-api-qps=1000", "--kube-api-burst=1000", "--worker-threads=50"],
    many: MOVED,
  },
];

async function attacher(kubernetes: Kubernetes): Promise<string> {
  const rows = [["csi-attacher", "volumes at once", "attaches/s", "detaches/s", "an RPC: attach", "detach"]];
  const all = Array.from({ length: MOVED }, (_, at) => kubernetes.count + at + 1);
  await Promise.all(all.map((number) => makeVolume(kubernetes, number)));
  await using controller = await controllerOf(kubernetes);
  for (const { name, args, many } of settings) {
    const numbers = all.slice(0, kubernetes.quick ? many / 10 : many);
    progress(`  csi-attacher ${name}: ${numbers.length} volumes`);
    const before = await rpcs(controller);
    const rates = await comeAndGo(kubernetes, numbers, args);
    const after = await rpcs(controller);
    const means = (["attach", "detach"] as const).map((operation) => {
      const [was, is] = [before[operation], after[operation]];
      return milliseconds(1000 * (is.seconds - was.seconds) / (is.count - was.count));
    });
    rows.push([name, String(numbers.length), ...rates.map(digits), ...means]);
  }
  const note =
    "All are asked for at once, by VolumeAttachments, and the simulator takes no time. An RPC: how long the " +
    "driver's part takes, a mean. etcd, API server, attacher, driver, simulator and this program share the cores.";
  return table("Attaching and detaching", rows, { note });
}

/** Has volumes attached and detached by an attacher with these arguments. @returns attaches and detaches a second */
async function comeAndGo(
  kubernetes: Kubernetes,
  numbers: readonly number[],
  args: readonly string[],
): Promise<[number, number]> {
  const { folder, plane } = kubernetes;
  const own = [`--csi-address=${folder}/controller.sock`, `--kubeconfig=${await plane.kubeconfig(admin)}`];
  const path = await kubernetesTool("csi-attacher");
  await using _attacher = new Program({ name: "csi-attacher", path, args: [...own, ...args], folder });
  const attaching = performance.now();
  await Promise.all(numbers.map((number) => ask(kubernetes, number)));
  await left(kubernetes, "to be attached", ({ status }) => status?.attached !== true);
  const detaching = performance.now();
  await Promise.all(numbers.map((each) => plane.admin.delete(objects.volumeAttachments, { name: `moved-${each}` })));
  await left(kubernetes, "to be gone", () => true);
  const perSecond = (milliseconds: number) => numbers.length * 1000 / milliseconds;
  return [perSecond(detaching - attaching), perSecond(performance.now() - detaching)];
}

/** Waits until no attachment is left that fits. */
async function left(
  { plane, signal }: Kubernetes,
  what: string,
  is: (object: objects.VolumeAttachment) => boolean,
): Promise<void> {
  let many = 0;
  await plane.admin.wait(`the attachments ${what}`, async () => {
    throwIfAborted(signal);
    many = (await plane.admin.list(objects.volumeAttachments)).filter(is).length;
    return many === 0 || undefined;
  }, { patience: 300_000, seen: () => `${many} are not` });
}

/** What the controller says of its attaches and detaches. */
async function rpcs(controller: LabProcess): Promise<Record<"attach" | "detach", { count: number; seconds: number }>> {
  const [, port] = /metricsPort=(\d+)/.exec(controller.output) ?? [];
  const text = await (await fetch(`http://127.0.0.1:${port}/metrics`)).text();
  const value = (operation: string, what: string) =>
    Number(
      new RegExp(`^rds_csi_attachment_operation_duration_seconds_${what}\\{operation="${operation}"\\} (\\S+)$`, "m")
        .exec(text)?.[1] ?? 0,
    );
  const both = (operation: string) => ({ count: value(operation, "count"), seconds: value(operation, "sum") });
  return { attach: both("attach"), detach: both("detach") };
}

async function rebuilds(kubernetes: Kubernetes, counts: readonly number[]): Promise<string> {
  const times = kubernetes.quick ? 2 : 5;
  const rows = [[
    "attachments",
    "known after",
    "slowest",
    "processor time of the start",
    "resident",
    "of it anonymous",
    "resident when listed",
    "of it anonymous",
  ]];
  let made = 0;
  for (const count of counts) {
    if (count > made) {
      progress(`  making ${count - made} attachments`);
      await makeMore(kubernetes, made, count);
      made = count;
    }
    progress(`  ${count} attachments: ${times} starts`);
    const [durations, processor]: [number[], number[]] = [[], []];
    for (let turn = 0; turn < times; turn++) {
      throwIfAborted(kubernetes.signal);
      await using controller = await controllerOf(kubernetes);
      durations.push(knownAfter(controller, count));
      processor.push(await processorTime(controller.pid));
    }
    await using controller = await controllerOf(kubernetes);
    await pause(IDLE, kubernetes.signal);
    const idle = await memoryOf(controller.pid);
    await checkAll(kubernetes, count);
    const listed = await memoryOf(controller.pid);
    const shown = [median(durations), Math.max(...durations), median(processor)].map(milliseconds);
    const memory = [idle, listed].flatMap(({ resident, anonymous }) => [resident, anonymous]);
    rows.push([count.toLocaleString("en"), ...shown, ...memory]);
  }
  const note = `Every other volume is ReadWriteMany. Median of ${times} starts, from the first request to the API ` +
    `server to the last attachment and PV, API server included. Memory after ${IDLE / 1000} s without a call; when ` +
    `listed: after ListVolumes of ${
      (kubernetes.count + MOVED).toLocaleString("en")
    } volumes with all their nodes, and ` +
    `after about ${TRIED} volumes of each kind were asked for by a second node and were granted or refused as they must.`;
  return table("The rebuild at the start", rows, { note });
}

/** PVs and attachments from one number on to another, in the order of the simulator's volumes. */
async function makeMore({ plane }: Kubernetes, from: number, to: number): Promise<void> {
  await makeAttachments(plane.admin, {
    count: to - from,
    driver: DRIVER,
    nodes: NODES.slice(0, 1),
    name: `many-${from}`,
    accessMode: (number) => isForTwo(from + number + 1) ? "ReadWriteMany" : "ReadWriteOnce",
    handle: (number) => handleOf(from + number + 1),
  });
}

function isForTwo(number: number): boolean {
  return number % 2 === 0;
}

/** What the controller says of the rebuild. @throws when it is not all of it */
function knownAfter({ output }: LabProcess, count: number): number {
  const line = output.split("\n").find((line) => line.includes("the attachments are known")) ?? "";
  const field = (name: string) => Number(new RegExp(`\\b${name}=(\\d+)`).exec(line)?.[1]);
  if (field("attached") !== count || field("claims") !== 0) throw new Error(`not all are known: ${line || output}`);
  return field("milliseconds");
}

/** Milliseconds that a process has worked, in all threads (proc_pid_stat(5): utime and stime, 100 ticks a second). */
async function processorTime(pid: number): Promise<number> {
  const [, fields = ""] = (await Deno.readTextFile(`/proc/${pid}/stat`)).split(") ");
  const [user = 0, system = 0] = fields.split(" ").slice(11, 13).map(Number);
  return (user + system) * 10;
}

/** All attachments are known, and those that are tried with the mode of their PV. */
async function checkAll(kubernetes: Kubernetes, count: number): Promise<void> {
  using csi = connect(Controller, `${kubernetes.folder}/controller.sock`);
  const { signal } = kubernetes;
  const { entries } = await csi.listVolumes({}, { signal });
  const right = entries.filter(({ status }) => status?.publishedNodeIds.join() === NODES[0]).length;
  if (right !== count) throw new Error(`${right} of ${count} volumes are shown on their node`);
  const step = Math.max(1, Math.floor(count / (2 * TRIED)));
  for (let number = 1; number <= count; number += step % 2 === 0 ? step + 1 : step) {
    await tryMode(kubernetes, csi, { number, name: nameOf(number) });
  }
}

/** The name of the PV with this number, as {@linkcode makeMore} made it. */
function nameOf(number: number): string {
  return number <= 1000 ? `many-0-${number - 1}` : `many-1000-${number - 1001}`;
}

/** Asks for a volume on a second node, with an attachment as Kubernetes makes it. */
async function tryMode(
  { plane, signal }: Kubernetes,
  csi: Client<typeof Controller>,
  { number, name }: { number: number; name: string },
): Promise<void> {
  const own = `second-${number}`;
  const [, nodeId = ""] = NODES;
  const spec = { attacher: DRIVER, nodeName: nodeId, source: { persistentVolumeName: name } };
  await plane.admin.create(objects.volumeAttachments, { metadata: { name: own }, spec });
  const accessMode = { mode: Mode.MULTI_NODE_MULTI_WRITER };
  const volumeCapability = { accessMode, accessType: { case: "block" as const, value: {} } };
  const request = { volumeId: handleOf(number), nodeId, volumeCapability };
  const answer = await csi.controllerPublishVolume(request, { signal }).then(() => "granted", String);
  await plane.admin.delete(objects.volumeAttachments, { name: own });
  await plane.admin.gone(objects.volumeAttachments, { name: own });
  if ((answer === "granted") !== isForTwo(number) || !/granted|is attached to/.test(answer)) {
    throw new Error(`${name} is ${isForTwo(number) ? "" : "not "}for two nodes; a second one got: ${answer}`);
  }
}
