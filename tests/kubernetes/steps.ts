import { assert, assertEquals } from "@std/assert";
import type { Row } from "../../src/simulator/values.ts";
import { KubeError } from "../lab/kubernetes/client.ts";
import { type Cluster, DRIVER, WORK } from "../lab/kubernetes/cluster.ts";
import { makeNode, setCondition } from "../lab/kubernetes/nodes.ts";
import * as objects from "../lab/kubernetes/objects.ts";

/** A Kubernetes API that there is a client for, whatever else there is of a cluster. */
export type Api = Pick<Cluster, "kube">;

/** A StorageClass of the driver, unless there is one of that name. */
export async function makeClass(
  cluster: Api,
  name: string,
  parameters: Record<string, string> = {},
): Promise<void> {
  const made = { metadata: { name }, provisioner: DRIVER, parameters, allowVolumeExpansion: true };
  try {
    await cluster.kube.create(objects.storageClasses, made);
  } catch (error) {
    if (!(error instanceof KubeError && error.reason === "AlreadyExists")) throw error;
  }
}

/** A claim: 1 GiB, ReadWriteOnce, of a StorageClass without parameters, where nothing else is said. */
export async function makeClaim(
  cluster: Api,
  name: string,
  spec: Partial<objects.Claim["spec"]> & { size?: string } = {},
) {
  const { size = "1Gi", ...rest } = spec;
  await makeClass(cluster, "plain");
  return await cluster.kube.create(objects.claims, {
    metadata: { name, namespace: WORK },
    spec: {
      accessModes: ["ReadWriteOnce"],
      resources: { requests: { storage: size } },
      storageClassName: "plain",
      ...rest,
    },
  });
}

/** The volume of a claim, once there is one. */
export async function bound(cluster: Api, name: string) {
  const { spec } = await cluster.kube.until(
    objects.claims,
    { name, namespace: WORK },
    (claim) => claim.status?.phase === "Bound",
  );
  const volume = await cluster.kube.get(objects.persistentVolumes, { name: spec.volumeName ?? "" });
  const { csi } = volume.spec;
  assert(csi, `${volume.metadata.name} is no CSI volume`);
  return { name: volume.metadata.name, id: csi.volumeHandle, spec: volume.spec, csi };
}

/** Asks for a volume on a node, as Kubernetes does for a pod. @param to.volume the PV's name */
export async function attach(cluster: Api, name: string, to: { node: string; volume: string }): Promise<void> {
  const source = { persistentVolumeName: to.volume };
  const spec = { attacher: DRIVER, nodeName: to.node, source };
  await cluster.kube.create(objects.volumeAttachments, { metadata: { name }, spec });
}

/** Waits until it is attached. @returns the publish context */
export async function attached(cluster: Api, name: string): Promise<Record<string, string>> {
  const { status } = await cluster.kube.until(
    objects.volumeAttachments,
    { name },
    (va) => va.status?.attached === true,
  );
  return status?.attachmentMetadata ?? {};
}

/** Asks for the end of an attachment and waits for it. */
export async function detach(cluster: Api, name: string): Promise<void> {
  await cluster.kube.delete(objects.volumeAttachments, { name });
  await cluster.kube.gone(objects.volumeAttachments, { name });
}

/** Deletes a claim and waits until its volume is gone from Kubernetes. */
export async function removeClaim(cluster: Api, name: string): Promise<void> {
  const found = await cluster.kube.find(objects.claims, { name, namespace: WORK });
  await cluster.kube.delete(objects.claims, { name, namespace: WORK });
  await cluster.kube.gone(objects.claims, { name, namespace: WORK });
  if (found?.spec.volumeName) await cluster.kube.gone(objects.persistentVolumes, { name: found.spec.volumeName });
}

/** Says of a node that it is Ready, or that nothing is known of it, as of one that died. */
export async function setReady(cluster: Api, node: string, isReady: boolean): Promise<void> {
  await setCondition(cluster.kube, node, isReady ? "True" : "Unknown");
}

/** Taints a node as out of service, as an administrator does with one that is off for good, or takes the taint away. */
export async function taintOutOfService(cluster: Api, node: string, isTainted: boolean): Promise<void> {
  const taint = { key: "node.kubernetes.io/out-of-service", value: "nodeshutdown", effect: "NoExecute" };
  await cluster.kube.patch(objects.nodes, { name: node }, { spec: { taints: isTainted ? [taint] : null } });
}

/** Says for a node's kubelet which volumes it uses. @param volumeHandles all of them */
export async function setVolumesInUse(
  cluster: Api,
  node: string,
  volumeHandles: readonly string[],
): Promise<void> {
  const volumesInUse = volumeHandles.map((handle) => `kubernetes.io/csi/${DRIVER}^${handle}`);
  await cluster.kube.patch(objects.nodes, { name: node }, { status: { volumesInUse } }, "status");
}

/** Takes a node away, as when it leaves the cluster. */
export async function removeNode(cluster: Api, node: string): Promise<void> {
  await cluster.kube.delete(objects.csiNodes, { name: node });
  await cluster.kube.delete(objects.nodes, { name: node });
  await cluster.kube.gone(objects.nodes, { name: node });
}

/** Makes a node that is Ready and has the driver. */
export async function addNode(cluster: Api, node: string): Promise<void> {
  await makeNode(cluster.kube, { name: node, driver: DRIVER });
}

/** The first event of a claim whose message has this text. */
export async function eventOf(cluster: Api, claim: string, text: string): Promise<objects.Event> {
  let seen: objects.Event[] = [];
  return await cluster.kube.wait(`an event with '${text}' on ${claim}`, async () => {
    seen = (await cluster.kube.list(objects.events, WORK)).filter((event) => event.involvedObject.name === claim);
    return seen.find(({ message }) => message?.includes(text));
  }, { seen: () => seen.map(({ message }) => message).join("; ") });
}

/** The rows of volumes that RouterOS has, in the order of their slots. */
export function disks(cluster: Cluster) {
  const rows = cluster.simulator.state().disks.filter(({ type }) => type === "file");
  return rows.map((row) => ({ ...row, slot: String(row["slot"]) })).sort((a, b) => a.slot < b.slot ? -1 : 1);
}

/** RouterOS' row of a volume. */
export function diskOf(cluster: Cluster, id: string): Row | undefined {
  return disks(cluster).find(({ slot }) => slot === id);
}

/** The volumes' files on RouterOS. */
export function files(cluster: Cluster): string[] {
  return cluster.simulator.state().files.map(({ name }) => name).filter((name) => name.endsWith(".img")).sort();
}

/** No volume, disk or file is left. */
export function assertNothingLeft(cluster: Cluster): void {
  assertEquals({ disks: disks(cluster), files: files(cluster) }, { disks: [], files: [] });
}

/** Waits until an attachment is refused. @returns the reason that stands in it */
export async function refused(cluster: Api, name: string): Promise<string> {
  const { status } = await cluster.kube.until(
    objects.volumeAttachments,
    { name },
    ({ status }) => Boolean(status?.attachError?.message),
  );
  assertEquals(status?.attached, false);
  return status?.attachError?.message ?? "";
}

/** The reasons of all events of a claim. */
export async function reasonsOf(cluster: Api, claim: string): Promise<string[]> {
  const events = await cluster.kube.list(objects.events, WORK);
  return events.filter((event) => event.involvedObject.name === claim).map(({ reason }) => reason ?? "");
}

/** The value of one of the driver's metrics; undefined while it is not there. */
export async function metricOf(
  { replica }: Pick<Cluster, "replica">,
  name: string,
  labels: Readonly<Record<string, string>> = {},
): Promise<number | undefined> {
  const wanted = Object.entries(labels).map(([label, value]) => `${label}="${value}"`);
  const lines = (await replica.metrics()).split("\n").filter((line) => /^rds_csi_/.test(line));
  const line = lines.find((line) => {
    const [, found, given = ""] = /^rds_csi_([a-z_]+)(?:\{(.*)\})? /.exec(line) ?? [];
    return found === name && wanted.every((label) => given.split(",").includes(label));
  });
  return line === undefined ? undefined : Number(line.slice(line.lastIndexOf(" ")));
}

/** Waits until an attachment is refused for a reason; others, of the moment, may come before. */
export async function refusedBecause(cluster: Api, name: string, reason: string): Promise<void> {
  const is = ({ status }: objects.VolumeAttachment) => status?.attachError?.message?.includes(reason) ?? false;
  const { status } = await cluster.kube.until(objects.volumeAttachments, { name }, is);
  assertEquals(status?.attached, false);
}
