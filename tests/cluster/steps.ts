import { assert } from "@std/assert";
import { bound, makeClaim, makeClass, removeClaim } from "../kubernetes/steps.ts";
import { BUSYBOX } from "../lab/cluster/images.ts";
import type { KubeletMachine } from "../lab/cluster/kubelet_machine.ts";
import type { PodCluster } from "../lab/cluster/pod_cluster.ts";
import { HOME, WORK } from "../lab/kubernetes/cluster.ts";
import * as objects from "../lab/kubernetes/objects.ts";
import { patient } from "../lab/machines/patience.ts";
import { TARGET_ADDRESS } from "../lab/machines/target_machine.ts";

/** What a claim's volume is to be. */
export type Kind = "ext4" | "xfs" | "block";

/** Where a pod has its volume, a folder or a device. */
export const DATA = "/data";

/** Milliseconds until a pod must be where it is wanted. */
const PATIENCE = patient(150_000);

/** A claim of 1 GiB that is bound, of a class whose sessions notice soon that their server is away. */
export async function claimed(
  cluster: PodCluster,
  name: string,
  kind: Kind,
  accessModes: readonly string[] = ["ReadWriteOnce"],
) {
  const fsType = kind === "block" ? {} : { "csi.storage.k8s.io/fstype": kind };
  const storageClassName = `quick-${kind}`;
  const quick = { nvmeAddress: TARGET_ADDRESS, keepAliveTmo: "5", reconnectDelay: "1" };
  await makeClass(cluster, storageClassName, { ...fsType, ...quick });
  const volumeMode = kind === "block" ? "Block" : "Filesystem";
  await makeClaim(cluster, name, { storageClassName, volumeMode, accessModes: [...accessModes] });
  return await bound(cluster, name);
}

/** What a pod does with a claim's volume. */
export interface PodOptions {
  claim: string;
  kind: Kind;
  /** For the shell. Its last words (`/dev/termination-log`) are what {@linkcode finished} gives. */
  script: string;
  node?: KubeletMachine;
  security?: objects.PodSpec["securityContext"];
}

/** The spec of a pod with a claim's volume at {@linkcode DATA}. */
export function podSpec({ claim, kind, script, node, security }: PodOptions): objects.PodSpec {
  const place = kind === "block"
    ? { volumeDevices: [{ name: "data", devicePath: DATA }] }
    : { volumeMounts: [{ name: "data", mountPath: DATA }] };
  return {
    ...(node ? { nodeSelector: { "kubernetes.io/hostname": node.name } } : {}),
    ...(security ? { securityContext: security } : {}),
    hostNetwork: true,
    restartPolicy: "Never",
    automountServiceAccountToken: false,
    terminationGracePeriodSeconds: 1,
    containers: [{
      name: "main",
      image: BUSYBOX,
      imagePullPolicy: "Never",
      command: ["sh", "-euc", script],
      ...place,
    }],
    volumes: [{ name: "data", persistentVolumeClaim: { claimName: claim } }],
  };
}

/** Makes a pod. */
export async function startPod({ kube }: PodCluster, name: string, options: PodOptions): Promise<void> {
  await kube.create(objects.pods, { metadata: { name, namespace: WORK }, spec: podSpec(options) });
}

/** Waits until a pod has ended well. @returns its last words. @throws with them when it failed */
export async function finished({ kube }: PodCluster, name: string): Promise<string> {
  const hasEnded = ({ status }: objects.Pod) => /Succeeded|Failed/.test(status?.phase ?? "");
  const { status } = await kube.until(objects.pods, { name, namespace: WORK }, hasEnded, PATIENCE);
  const message = status?.containerStatuses?.[0]?.state?.terminated?.message?.trim() ?? "";
  assert(status?.phase === "Succeeded", `the pod ${name} failed: ${message}`);
  return message;
}

/** Waits until a pod's container runs. */
export async function running({ kube }: PodCluster, name: string, namespace: string = WORK): Promise<objects.Pod> {
  const runs = ({ status }: objects.Pod) => status?.containerStatuses?.[0]?.ready === true;
  return await kube.until(objects.pods, { name, namespace }, runs, PATIENCE);
}

/** Runs a script in a pod's container. @returns its output */
export async function inPod(cluster: PodCluster, name: string, script: string): Promise<string> {
  const pod = await cluster.kube.get(objects.pods, { name, namespace: WORK });
  return await nodeOf(cluster, pod.spec.nodeName).inContainer(containerOf(pod), script);
}

/** containerd's name of a pod's first container. */
export function containerOf({ status }: objects.Pod): string {
  return status?.containerStatuses?.[0]?.containerID?.replace("containerd://", "") ?? "";
}

/** The machine that a pod runs on. */
export function nodeOf({ nodes }: PodCluster, name: string | undefined): KubeletMachine {
  const node = nodes.find((each) => each.name === name);
  assert(node, `there is no node ${name}`);
  return node;
}

/** Deletes pods, and waits until they are gone. */
export async function removePods({ kube }: PodCluster, ...names: string[]): Promise<void> {
  for (const name of names) await kube.delete(objects.pods, { name, namespace: WORK });
  for (const name of names) await kube.gone(objects.pods, { name, namespace: WORK });
}

/** Deletes claims, and waits until their volumes are gone: here and on RouterOS. */
export async function removeClaims(cluster: PodCluster, ...names: string[]): Promise<void> {
  await Promise.all(names.map((name) => removeClaim(cluster, name)));
}

/** Writes to the volume all the time, a line or a block that is safe on disk a round; the first error ends it. */
export function writing(kind: Kind): string {
  const round = kind === "block"
    ? `dd if=/dev/zero of=${DATA} bs=4096 seek=$((n % 1000)) count=1 conv=notrunc,fsync 2>/tmp/said`
    : `echo $n | dd of=${DATA}/log oflag=append conv=notrunc,fsync 2>/tmp/said`;
  // The kubelet waits for nobody who heeds no TERM.
  return `trap 'exit 0' TERM; n=0; while :; do n=$((n + 1)); { ${round}; } || { cat /tmp/said >/dev/termination-log; ` +
    "exit 1; }; echo $n >/tmp/rounds; sleep 0.2; done";
}

/** Rounds that a pod has written so far. */
export async function rounds(cluster: PodCluster, name: string): Promise<number> {
  return Number(await inPod(cluster, name, "cat /tmp/rounds 2>/dev/null || echo 0"));
}

/** Waits until a pod has written more than before. */
export async function writesOn(cluster: PodCluster, name: string): Promise<void> {
  const before = await rounds(cluster, name);
  await cluster.kube.wait(`${name} to write on after ${before} rounds`, async () => {
    return await rounds(cluster, name) > before + 3 || undefined;
  }, { patience: PATIENCE });
}

/** The driver's pod on a node. */
export async function driverPod({ kube }: PodCluster, node: KubeletMachine): Promise<objects.Pod | undefined> {
  const all = await kube.list(objects.pods, HOME);
  return all.find(({ spec, metadata }) => spec.nodeName === node.name && !metadata.deletionTimestamp);
}

/** Waits until the driver's pod on a node is ready, and is not the one that it was. */
export async function driverReady(cluster: PodCluster, node: KubeletMachine, notUid?: string): Promise<objects.Pod> {
  return await cluster.kube.wait(`the driver on ${node.name}`, async () => {
    const pod = await driverPod(cluster, node);
    const isReady = pod?.metadata.uid !== notUid && pod?.status?.containerStatuses?.every(({ ready }) => ready);
    return isReady ? pod : undefined;
  }, { patience: patient(180_000) });
}

/** A Deployment of one pod with a claim's volume; when the pod goes another one is made. */
export async function deploy({ kube }: PodCluster, name: string, options: PodOptions): Promise<void> {
  const labels = { app: name };
  const spec = podSpec(options);
  // Half a minute is what a node has to come back.
  const tolerations = ["not-ready", "unreachable"].map((state) => ({
    key: `node.kubernetes.io/${state}`,
    operator: "Exists",
    effect: "NoExecute",
    tolerationSeconds: 600,
  }));
  await kube.create(objects.deployments, {
    metadata: { name, namespace: WORK },
    spec: {
      replicas: 1,
      strategy: { type: "Recreate" },
      selector: { matchLabels: labels },
      template: { metadata: { labels }, spec: { ...spec, restartPolicy: "Always", tolerations } },
    },
  });
}

/** Waits until the pod of a Deployment runs. @param not a node that it must not be on */
export async function deployed({ kube }: PodCluster, name: string, not?: KubeletMachine): Promise<objects.Pod> {
  return await kube.wait(`the pod of ${name} to run${not ? ` elsewhere than on ${not.name}` : ""}`, async () => {
    const all = await kube.list(objects.pods, WORK);
    return all.find(({ metadata, spec, status }) =>
      metadata.labels?.["app"] === name && !metadata.deletionTimestamp && spec.nodeName !== not?.name &&
      status?.containerStatuses?.[0]?.ready
    );
  }, { patience: patient(240_000) });
}

/** Deletes a Deployment, and waits until its pods are gone. */
export async function undeploy({ kube }: PodCluster, name: string): Promise<void> {
  await kube.delete(objects.deployments, { name, namespace: WORK });
  await kube.wait(`the pods of ${name} to go`, async () => {
    const all = await kube.list(objects.pods, WORK);
    return all.every(({ metadata }) => metadata.labels?.["app"] !== name) || undefined;
  }, { patience: patient(150_000) });
}
