import { assertEquals, assertMatch, assertRejects } from "@std/assert";
import type { KubeObject, RequestOptions } from "../kube/client.ts";
import type { ToldOfSought } from "../kube/events.ts";
import type { PvObject, VolumeAttachmentObject } from "../kube/objects.ts";
import { FailedPrecondition, NotFound, Unreachable } from "../runtime/errors.ts";
import { KubernetesCluster } from "./kubernetes.ts";

const driver = "rds.csi.srvlab.io";
const prefix = "nqn.2000-02.com.mikrotik:pvc-";
const pvName = "pvc-0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9";
const id = "pvc-0a1b2c3d4e5f60718293a4b5c6d7";
const { signal } = new AbortController();

/** An API server that gives objects by path, and lists. */
class FakeKube {
  readonly objects = new Map<string, KubeObject>();
  readonly lists = new Map<string, KubeObject[] | Error>();
  readonly asked: [string, RequestOptions][] = [];
  error: Error | undefined;

  // deno-lint-ignore require-await -- stands in for a request
  async get<T extends KubeObject>(path: string): Promise<T> {
    if (this.error) throw this.error;
    const found = this.objects.get(path);
    if (!found) throw new NotFound(path);
    return found as T;
  }

  // deno-lint-ignore require-await -- as above
  async list<T extends KubeObject>(path: string, each: (object: T) => void, options: RequestOptions): Promise<string> {
    this.asked.push([path, options]);
    const found = this.lists.get(path) ?? [];
    if (found instanceof Error) throw found;
    for (const object of found) each(object as T);
    return "1";
  }
}

function clusterOf(kube: FakeKube, boot?: () => Promise<string | undefined>) {
  const told: ToldOfSought[] = [];
  const events = { postSought: (each: ToldOfSought) => void told.push(each) };
  return {
    told,
    cluster: new KubernetesCluster({ kube, driver, nodeId: "node-1", prefix, events, ...(boot ? { boot } : {}) }),
  };
}

function pv(handle: string, more: Partial<PvObject["spec"]> = {}, name = pvName): PvObject {
  return { metadata: { name, uid: "uid-pv" }, spec: { csi: { driver, volumeHandle: handle }, ...more } };
}

function attachment(
  name: string,
  metadata: Record<string, string> | undefined,
  spec: VolumeAttachmentObject["spec"] = {},
): VolumeAttachmentObject {
  return {
    metadata: { name, uid: name },
    spec: { attacher: driver, nodeName: "node-1", source: { persistentVolumeName: pvName }, ...spec },
    ...(metadata ? { status: { attached: true, attachmentMetadata: metadata } } : {}),
  };
}

async function attachments(objects: VolumeAttachmentObject[], ...pvs: PvObject[]) {
  const kube = new FakeKube();
  kube.lists.set("/apis/storage.k8s.io/v1/volumeattachments", objects);
  for (const each of pvs) kube.objects.set(`/api/v1/persistentvolumes/${each.metadata.name}`, each);
  return await clusterOf(kube).cluster.attachmentsHere({ signal });
}

Deno.test("KubernetesCluster.podsHere() gives the UIDs of this node's pods, and asks for no more of them", async () => {
  const kube = new FakeKube();
  const named = (name: string, uid?: string) => ({ metadata: { name, ...(uid ? { uid } : {}) } });
  kube.lists.set("/api/v1/pods", [named("a", "uid-a"), named("b", "uid-b")]);
  const { cluster } = clusterOf(kube);
  assertEquals(await cluster.podsHere({ signal }), new Set(["uid-a", "uid-b"]));
  const query = { fieldSelector: "spec.nodeName=node-1" };
  assertEquals(kube.asked, [["/api/v1/pods", { query, metadataOnly: true, signal }]]);
  kube.lists.set("/api/v1/pods", [named("a")]);
  await assertRejects(() => cluster.podsHere({ signal }), FailedPrecondition, "no UID");
  kube.lists.set("/api/v1/pods", new Unreachable("away"));
  await assertRejects(() => cluster.podsHere({ signal }), Unreachable);
});

Deno.test("KubernetesCluster.attachmentsHere() takes this driver's on this node, with the volume that each names", async () => {
  const nqn = `${prefix}${id.slice(4)}.g2`;
  const found = await attachments([
    attachment("by id", { volume_id: "pvc-id", nvme_nqn: nqn }),
    attachment("by NQN", { nvme_nqn: nqn }),
    attachment("by PV", { nvme_nqn: "nqn.2000-02.com.mikrotik:else" }),
    attachment("not yet", undefined),
    attachment("other driver", {}, { attacher: "other" }),
    attachment("other node", {}, { nodeName: "node-2" }),
  ], pv("pvc-of-pv"));
  assertEquals(found, [
    { volumeId: "pvc-id", nqn, attached: true, deleting: false },
    { volumeId: id, nqn, attached: true, deleting: false },
    { volumeId: "pvc-of-pv", nqn: "nqn.2000-02.com.mikrotik:else", attached: true, deleting: false },
    { volumeId: "pvc-of-pv", nqn: undefined, attached: false, deleting: false },
  ]);
  const leaving = attachment("leaving", { volume_id: id });
  leaving.metadata.deletionTimestamp = "2030-01-01T00:00:00Z";
  assertEquals((await attachments([leaving]))[0]?.deleting, true);
});

Deno.test("KubernetesCluster.attachmentsHere() gives both ids that a volume may have whose PV is gone", async () => {
  const ids = (found: readonly { volumeId: string }[]) => found.map(({ volumeId }) => volumeId);
  assertEquals(ids(await attachments([attachment("a", undefined)])), [pvName, id]);
  const named = attachment("a", undefined, { source: { persistentVolumeName: "by-hand" } });
  assertEquals(ids(await attachments([named])), ["by-hand"]);
});

Deno.test("KubernetesCluster.attachmentsHere() throws rather than leave one out that it does not understand", async () => {
  const nameless = attachment("nameless", undefined, { source: {} });
  await assertRejects(() => attachments([nameless]), FailedPrecondition, "names no PersistentVolume");
  const kube = new FakeKube();
  kube.lists.set("/apis/storage.k8s.io/v1/volumeattachments", [attachment("a", undefined)]);
  kube.error = new Unreachable("away");
  await assertRejects(() => clusterOf(kube).cluster.attachmentsHere({ signal }), Unreachable);
});

Deno.test("KubernetesCluster does not take what a Node has that Kubernetes does not know for nothing", async () => {
  const kube = new FakeKube();
  const { cluster } = clusterOf(kube);
  kube.lists.set("/apis/storage.k8s.io/v1/volumeattachments", [attachment("a", {}, { nodeName: "node-1.example" })]);
  await assertRejects(() => cluster.attachmentsHere({ signal }), FailedPrecondition, "--node-id");
  await assertRejects(() => cluster.podsHere({ signal }), FailedPrecondition, "no Node 'node-1'");
  kube.error = new Unreachable("away");
  await assertRejects(() => cluster.podsHere({ signal }), Unreachable);
  kube.error = undefined;
  kube.objects.set("/api/v1/nodes/node-1", { metadata: { name: "node-1", uid: "uid-1" } });
  assertEquals([await cluster.attachmentsHere({ signal }), [...await cluster.podsHere({ signal })]], [[], []]);
});

Deno.test("KubernetesCluster takes nothing of a Node that is another machine's for this one's, and asks until that is known", async () => {
  const kube = new FakeKube();
  let boot: string | undefined = "b1";
  const { cluster } = clusterOf(kube, () => Promise.resolve(boot));
  kube.lists.set("/api/v1/pods", [{ metadata: { name: "a", uid: "uid-a" } }]);
  kube.lists.set("/apis/storage.k8s.io/v1/volumeattachments", [attachment("a", { volume_id: "pvc-id" })]);
  const told = (bootID: string) =>
    kube.objects.set("/api/v1/nodes/node-1", {
      metadata: { name: "node-1", uid: "uid-1" },
      status: { nodeInfo: { bootID } },
    } as KubeObject);
  const questions = [
    () => cluster.podsHere({ signal }),
    () => cluster.attachmentsHere({ signal }),
    () => cluster.nodeUid({ signal }),
  ];
  const wrong = /another machine's.*boot b0 .*boot b1.*--node-id.*passes by itself/;
  told("b0");
  for (const ask of questions) assertMatch((await assertRejects(ask, FailedPrecondition) as Error).message, wrong);
  boot = undefined; // Nobody can tell.
  for (const ask of questions) await ask();
  boot = "b1";
  told(""); // A kubelet that has just registered it.
  for (const ask of questions) await ask();
  told("b0");
  for (const ask of questions) assertMatch((await assertRejects(ask, FailedPrecondition) as Error).message, wrong);
  told("B1");
  for (const ask of questions) await ask();
  kube.error = new Unreachable("away");
  assertEquals((await cluster.podsHere({ signal })).size, 1, "it is known, and need not be asked");
});

Deno.test("KubernetesCluster.annotation() reads that of the volume's own PV, found by its name or the volume's id", async () => {
  const kube = new FakeKube();
  const { cluster } = clusterOf(kube);
  const ask = (volume: { volumeId: string; pv?: string }) => cluster.annotation(volume, "key", { signal });
  const object = pv(id);
  object.metadata.annotations = { key: "value" };
  kube.objects.set(`/api/v1/persistentvolumes/${pvName}`, object);
  assertEquals(await ask({ volumeId: id, pv: pvName }), "value");
  assertEquals(await ask({ volumeId: id }), undefined);
  assertEquals(await ask({ volumeId: "pvc-other", pv: pvName }), undefined);
  const old = pv(pvName);
  old.metadata.annotations = { key: "old" };
  kube.objects.set(`/api/v1/persistentvolumes/${pvName}`, old);
  assertEquals(await ask({ volumeId: pvName }), "old");
  kube.error = new Unreachable("away");
  await assertRejects(() => ask({ volumeId: id }), Unreachable);
});

Deno.test("KubernetesCluster.nodeUid() gives the UID of this node's Node", async () => {
  const kube = new FakeKube();
  kube.objects.set("/api/v1/nodes/node-1", { metadata: { name: "node-1", uid: "uid-1" } });
  assertEquals(await clusterOf(kube).cluster.nodeUid({ signal }), "uid-1");
  kube.objects.clear();
  await assertRejects(() => clusterOf(kube).cluster.nodeUid({ signal }), NotFound);
});

Deno.test("KubernetesCluster.tell() tells it on the claim, else on the PV", async () => {
  const kube = new FakeKube();
  const { cluster, told } = clusterOf(kube);
  const about = async () => {
    cluster.tell({ volumeId: id, pv: pvName }, "MountFailure", "broken");
    return await told.pop()?.about(signal);
  };
  const path = `/api/v1/persistentvolumes/${pvName}`;
  const claim = { namespace: "shop", name: "data", uid: "uid-claim" };
  kube.objects.set(path, pv(id, { claimRef: claim }));
  assertEquals(await about(), { apiVersion: "v1", kind: "PersistentVolumeClaim", ...claim });
  const onPv = { apiVersion: "v1", kind: "PersistentVolume", name: pvName };
  kube.objects.set(path, pv(id));
  assertEquals(await about(), { ...onPv, uid: "uid-pv" });
  kube.objects.delete(path);
  assertEquals(await about(), onPv);
  kube.error = new Unreachable("away");
  await assertRejects(about, Unreachable);
});
