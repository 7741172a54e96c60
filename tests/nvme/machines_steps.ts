import type { MessageInitShape } from "@bufbuild/protobuf";
import { assert, assertEquals } from "@std/assert";
import { status } from "@grpc/grpc-js";
import { VolumeCapability_AccessMode_Mode as Mode, VolumeCapabilitySchema } from "../../proto/gen/csi_pb.ts";
import { Deadline, pause, poll } from "../../src/runtime/deadline.ts";
import type { Machines, MachinesOptions } from "../lab/machines/machines.ts";
import type { NodeMachine } from "../lab/machines/node_machine.ts";
import { patient } from "../lab/machines/patience.ts";
import { type MachineScenario, machineScenarios } from "./machines_scenarios.ts";

export type Kind = "ext4" | "xfs" | "block";

/** A volume that the controller has made. */
export interface Volume {
  id: string;
  /** Name of its PV. */
  pv: string;
  kind: Kind;
  /** Bytes. */
  size: number;
  shared: boolean;
  context: Record<string, string>;
}

/** A volume that a node was given. */
export interface Attached extends Volume {
  node: NodeMachine;
  publishContext: Record<string, string>;
  nqn: string;
  stagingPath: string;
}

/** A pod's place of a volume: a folder where it is mounted, or a device node. */
export interface Place extends Attached {
  targetPath: string;
}

export const GiB = 2 ** 30;
const KUBELET = "/var/lib/kubelet";
const CSI = `${KUBELET}/plugins/kubernetes.io/csi`;

/** What a sidecar or the kubelet tries again. */
const passing = [status.UNAVAILABLE, status.ABORTED, status.DEADLINE_EXCEEDED];

/** Calls again and again, less and less often, while the answer is one that Kubernetes tries again after. */
export async function persistently<T>(call: () => Promise<T>, patience = patient(120_000)): Promise<T> {
  const end = performance.now() + patience;
  for (let wait = 300;; wait = Math.min(2 * wait, 3000)) {
    try {
      return await call();
    } catch (error) {
      const isPassing = passing.includes((error as { code?: status }).code ?? status.OK);
      if (!isPassing || performance.now() > end) throw error;
      await pause(wait);
    }
  }
}

/** One of the nodes; the first by default. */
export function nodeOf({ nodes }: Machines, number = 1): NodeMachine {
  const node = nodes[number - 1];
  assert(node, `there is no node ${number}`);
  return node;
}

let volumes = 0;

/** Makes a volume of 1 GiB. */
export async function makeVolume(
  lab: Machines,
  kind: Kind,
  options: { size?: number; shared?: boolean; parameters?: Record<string, string> } = {},
): Promise<Volume> {
  const { size = GiB, shared = false } = options;
  const number = (++volumes).toString(16).padStart(8, "0");
  const pv = `pvc-${number}-0000-4000-8000-000000000000`;
  using controller = lab.client();
  const { volume } = await persistently(() =>
    controller.createVolume({
      name: pv,
      capacityRange: { requiredBytes: BigInt(size) },
      volumeCapabilities: [capabilityOf({ kind, shared })],
      parameters: { ...lab.parameters, ...options.parameters },
    })
  );
  assert(volume);
  return { id: volume.volumeId, pv, kind, size, shared, context: { ...volume.volumeContext } };
}

function capabilityOf(
  { kind, shared }: Pick<Volume, "kind" | "shared">,
): MessageInitShape<typeof VolumeCapabilitySchema> {
  const accessMode = { mode: shared ? Mode.MULTI_NODE_MULTI_WRITER : Mode.SINGLE_NODE_WRITER };
  if (kind === "block") return { accessMode, accessType: { case: "block" as const, value: {} } };
  return { accessMode, accessType: { case: "mount" as const, value: { fsType: kind } } };
}

/** Gives a volume to a node, as csi-attacher does, and makes the folder that the kubelet would. */
export async function attach(lab: Machines, volume: Volume, node: NodeMachine): Promise<Attached> {
  using controller = lab.client();
  const volumeContext = { ...volume.context, "csi.storage.k8s.io/pv/name": volume.pv };
  const { publishContext } = await persistently(() =>
    controller.controllerPublishVolume({
      volumeId: volume.id,
      nodeId: node.name,
      volumeCapability: capabilityOf(volume),
      volumeContext,
    })
  );
  return await given(volume, node, publishContext);
}

/** A volume as a node sees it that was given it with this publish context. */
export async function given(volume: Volume, node: NodeMachine, publishContext: Record<string, string>) {
  const stagingPath = volume.kind === "block"
    ? `${CSI}/volumeDevices/staging/${volume.pv}`
    : `${CSI}/rds.csi.srvlab.io/${volume.id}/globalmount`;
  await node.machine.guest.quick(`mkdir -p '${stagingPath}'`);
  return { ...volume, node, publishContext, nqn: publishContext.nvme_nqn ?? "", stagingPath };
}

/** What a node is asked for when it is to stage or publish what it was given. */
export function nodeRequest(given: Attached) {
  return {
    volumeId: given.id,
    stagingTargetPath: given.stagingPath,
    volumeCapability: capabilityOf(given),
    volumeContext: given.context,
    publishContext: given.publishContext,
  };
}

/** Calls once, and lets what is answered through. */
export async function stageOnce(given: Attached): Promise<void> {
  using node = given.node.client();
  await node.nodeStageVolume(nodeRequest(given), { deadline: patient(120_000) });
}

export async function stage(given: Attached): Promise<void> {
  await persistently(() => stageOnce(given));
}

/** Where the kubelet has the volume for a pod. */
export function placeOf(given: Attached, pod: string): Place {
  const targetPath = given.kind === "block"
    ? `${CSI}/volumeDevices/publish/${given.pv}/${pod}`
    : `${KUBELET}/pods/${pod}/volumes/kubernetes.io~csi/${given.pv}/mount`;
  return { ...given, targetPath };
}

/** As {@linkcode stageOnce}; the folder above must be there. */
export async function publishOnce(place: Place): Promise<void> {
  using node = place.node.client();
  const request = { ...nodeRequest(place), targetPath: place.targetPath };
  await node.nodePublishVolume(request, { deadline: patient(120_000) });
}

export async function publish(given: Attached, pod: string): Promise<Place> {
  const place = placeOf(given, pod);
  await given.node.machine.guest.quick(`mkdir -p '${place.targetPath.slice(0, place.targetPath.lastIndexOf("/"))}'`);
  await persistently(() => publishOnce(place));
  return place;
}

export async function unpublishOnce(place: Place): Promise<void> {
  using node = place.node.client();
  const request = { volumeId: place.id, targetPath: place.targetPath };
  await node.nodeUnpublishVolume(request, { deadline: patient(60_000) });
}

export async function unpublish(place: Place): Promise<void> {
  await persistently(() => unpublishOnce(place));
}

export async function unstageOnce({ node, id, stagingPath }: Attached): Promise<void> {
  using client = node.client();
  await client.nodeUnstageVolume({ volumeId: id, stagingTargetPath: stagingPath }, { deadline: patient(60_000) });
}

export async function unstage(given: Attached): Promise<void> {
  await persistently(() => unstageOnce(given));
}

export async function detach(lab: Machines, given: Attached): Promise<void> {
  using controller = lab.client();
  await persistently(() => controller.controllerUnpublishVolume({ volumeId: given.id, nodeId: given.node.name }));
}

export async function deleteVolume(lab: Machines, volume: Volume): Promise<void> {
  using controller = lab.client();
  await persistently(() => controller.deleteVolume({ volumeId: volume.id }));
}

/** From a volume to a pod's place of it on a node. */
export async function up(lab: Machines, volume: Volume, node: NodeMachine, pod = `pod-${volume.id.slice(4, 12)}`) {
  const attached = await attach(lab, volume, node);
  await stage(attached);
  return await publish(attached, pod);
}

/** And back. */
export async function down(lab: Machines, place: Place): Promise<void> {
  await unpublish(place);
  await unstage(place);
  await detach(lab, place);
  await place.node.untilSession(place.nqn, "gone", patient(10_000));
}

/** The condition and the size that NodeGetVolumeStats tells of a place. */
export async function conditionOf(place: Place): Promise<{ abnormal: boolean; message: string }> {
  using node = place.node.client();
  const answer = await node.nodeGetVolumeStats({ volumeId: place.id, volumePath: place.targetPath });
  return { abnormal: answer.volumeCondition?.abnormal ?? false, message: answer.volumeCondition?.message ?? "" };
}

/** What a call is refused with: its code's name and what it says. */
export async function refusal(call: () => Promise<unknown>): Promise<{ code: string; message: string }> {
  try {
    await call();
  } catch (error) {
    const { code = 2, details = String(error) } = error as { code?: status; details?: string };
    return { code: status[code] ?? String(code), message: details };
  }
  throw new Error("it was not refused");
}

/** The path of a file of a place that holds data: in the filesystem, or the device node itself. */
export function dataOf(place: Place, name = "data"): string {
  return place.kind === "block" ? place.targetPath : `${place.targetPath}/${name}`;
}

/** Writes so many MiB that nothing else has, past every cache, and gives their checksum. */
export async function write(place: Place, mib = 8): Promise<string> {
  const path = dataOf(place);
  const { guest } = place.node.machine;
  const script = `f=$(mktemp -p /run); head -c ${mib}M /dev/urandom > $f; sha256sum < $f; ` +
    `dd if=$f of='${path}' bs=1M conv=notrunc,fsync status=none; rm $f`;
  return (await guest.sh(script)).slice(0, 64);
}

/** The checksum of what is there, read from the device and not from a cache. */
export async function checksum(place: Place, mib = 8): Promise<string> {
  const script = `echo 3 > /proc/sys/vm/drop_caches; head -c ${mib}M '${dataOf(place)}' | sha256sum`;
  return (await place.node.machine.guest.sh(script)).slice(0, 64);
}

/** No session of the driver's volumes, no record and no mount under the kubelet's folder is left on a node. */
export async function assertClean(node: NodeMachine, foreign: readonly string[] = []): Promise<void> {
  const left = (await node.controllers()).map(({ nqn }) => nqn).filter((nqn) => !foreign.includes(nqn));
  const mounts = await node.machine.guest.quick(`grep -F ' ${KUBELET}/' /proc/1/mountinfo || true`);
  const folder = `${KUBELET}/plugins/rds.csi.srvlab.io/volumes`;
  const records = await node.machine.guest.quick(`ls ${folder} 2>/dev/null | grep '[.]json$' || true`);
  assertEquals({ left, mounts, records }, { left: [], mounts: "", records: "" });
}

/** Waits until something holds. */
export async function until<T>(
  what: string,
  look: () => Promise<T | undefined>,
  patience = patient(60_000),
): Promise<T> {
  using deadline = new Deadline(patience, what);
  return await poll(look, { signal: deadline.signal, interval: 200 });
}

/** A program that writes, and one that reads, until they are told to end; both end with 1 at the first error. */
export interface Load {
  /** How often each has gone round so far. */
  rounds(): { writes: number; reads: number };
  /** Waits until both have gone round again. */
  goesOn(patience?: number): Promise<void>;
  /** Lets them end. @throws when one of them has met an error */
  end(): Promise<void>;
}

let loads = 0;

/** Writes with fsync and reads past the cache, in a filesystem or on a device, beyond the first 16 MiB. */
export async function load(place: Place): Promise<Load> {
  const { machine } = place.node;
  const name = `load-${++loads}`;
  const stop = `/run/stop-${name}`;
  const path = dataOf(place, "load");
  if (place.kind !== "block") {
    await machine.guest.sh(`dd if=/dev/zero of='${path}' bs=1M count=18 conv=fsync status=none`);
  }
  const round = (command: string) =>
    machine.start(`${name}-${command.includes("of='") ? "writer" : "reader"}`, "bash", [
      "-c",
      `n=0; while [ ! -e ${stop} ]; do ${command} || exit 1; echo "round $((++n))"; sleep 0.1; done`,
    ]);
  const writer = await round(
    `dd if=/dev/urandom of='${path}' bs=64k count=4 seek=$((256 + n % 8 * 4)) conv=notrunc,fsync status=none`,
  );
  const reader = await round(
    `dd if='${path}' bs=64k count=4 skip=$((256 + n % 8 * 4)) iflag=direct status=none > /dev/null`,
  );
  const count = ({ output }: { output: string }) => output.split("\n").filter((line) => /^round /.test(line)).length;
  const rounds = () => ({ writes: count(writer), reads: count(reader) });
  return {
    rounds,
    async goesOn(patience) {
      const before = rounds();
      await until(`reading and writing of ${place.id} to go on`, () => {
        const now = rounds();
        return Promise.resolve(now.writes > before.writes + 1 && now.reads > before.reads + 1 || undefined);
      }, patience);
    },
    async end() {
      await machine.guest.quick(`touch ${stop}`);
      for (const process of [writer, reader]) assertEquals(await process.ended(), 0, process.output);
    },
  };
}

/** What RouterOS leaves unanswered, because it was reset, is settled after twice this time. */
const controller = { "rds-read-deadline": "5s", "rds-create-deadline": "5s", "rds-delete-deadline": "5s" };

/** Machines for the tests of a file: two nodes, and room for many volumes. */
export function scenarios(options: Omit<MachinesOptions, "folder"> = {}): MachineScenario {
  const simulator = { "pool-size": "100G", ...options.simulator };
  return machineScenarios({ nodes: 2, ...options, simulator, controller: { ...controller, ...options.controller } });
}
