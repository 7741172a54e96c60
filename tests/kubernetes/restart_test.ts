import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { status } from "@grpc/grpc-js";
import { Controller, VolumeCapability_AccessMode_Mode as Mode } from "../../proto/gen/csi_pb.ts";
import { connect } from "../../src/csi/rpc.ts";
import { type Cluster, controllerUser, DRIVER, setRules, WORK } from "../lab/kubernetes/cluster.ts";
import { KubeError } from "../lab/kubernetes/client.ts";
import * as objects from "../lab/kubernetes/objects.ts";
import { clusterRules, singleRules } from "../lab/kubernetes/rules.ts";
import { scenarios } from "./scenarios.ts";
import {
  attach,
  attached,
  bound,
  detach,
  diskOf,
  eventOf,
  makeClaim,
  metricOf,
  reasonsOf,
  refusedBecause,
  removeClaim,
  setReady,
} from "./steps.ts";

const scenario = scenarios({ proxy: true });

/** The Controller service, as a sidecar has it. */
function csi({ replica }: Cluster) {
  return connect(Controller, replica.socket);
}

/** What the attacher would ask for. */
function publishing(volumeId: string, nodeId: string, mode = Mode.SINGLE_NODE_WRITER) {
  const volumeCapability = { accessType: { case: "block" as const, value: {} }, accessMode: { mode } };
  return { volumeId, nodeId, volumeCapability };
}

/** Waits until a call is refused for a reason; what is under way for the volume may have to end first. */
async function refusal({ kube }: Cluster, call: () => Promise<unknown>, reason: string): Promise<void> {
  let seen = "";
  await kube.wait(`a refusal with '${reason}'`, async () => {
    seen = await call().then(() => "granted", String);
    assert(seen !== "granted", `it is not refused for '${reason}'`);
    return seen.includes(reason) || undefined;
  }, { seen: () => seen });
}

/** Calls as a sidecar does: again while another call for the volume is under way. */
async function answered<T>({ kube }: Cluster, call: () => Promise<T>): Promise<T> {
  return await kube.wait("an answer", () =>
    call().catch((error) => {
      if (error?.code !== status.ABORTED) throw error;
      return undefined;
    }));
}

/** The nodes that have a volume, by ControllerGetVolume and by ListVolumes, which must agree. */
async function published(cluster: Cluster, volumeId: string): Promise<string[]> {
  using controller = csi(cluster);
  const { status: found } = await controller.controllerGetVolume({ volumeId });
  const { entries } = await controller.listVolumes({});
  const listed = entries.find(({ volume }) => volume?.volumeId === volumeId)?.status?.publishedNodeIds;
  assertEquals(listed, found?.publishedNodeIds);
  return [...found?.publishedNodeIds ?? []].sort();
}

/** What the metrics say of attachments. */
async function counted(cluster: Cluster): Promise<{ attached: number | undefined; claimed: number | undefined }> {
  return {
    attached: await metricOf(cluster, "attachments_attached"),
    claimed: await metricOf(cluster, "attachments_claimed"),
  };
}

/** Makes an attachment that is there already, as an attacher that is not there now has left it. */
async function attachedEarlier(
  { kube }: Cluster,
  name: string,
  { node, volume, id }: { node: string; volume: string; id?: string },
): Promise<void> {
  const spec = { attacher: DRIVER, nodeName: node, source: { persistentVolumeName: volume } };
  await kube.create(objects.volumeAttachments, { metadata: { name }, spec });
  const status = { attached: true, ...(id ? { attachmentMetadata: { volume_id: id } } : {}) };
  await kube.patch(objects.volumeAttachments, { name }, { status }, "status");
}

/** A ReadWriteMany block volume. */
async function shared(cluster: Cluster, claim: string) {
  await makeClaim(cluster, claim, { accessModes: ["ReadWriteMany"], volumeMode: "Block" });
  return await bound(cluster, claim);
}

/** Keeps the attacher from writing that an attachment is there, or from writing to it at all. */
async function silenceAttacher(cluster: Cluster, about: "status" | "all"): Promise<void> {
  const silent = singleRules(clusterRules).filter(({ resources: [resource = ""], verbs }) =>
    !(verbs.includes("patch") &&
      resource.startsWith(about === "all" ? "volumeattachments" : "volumeattachments/status"))
  );
  await setRules(cluster, { cluster: silent });
  using client = cluster.controlPlane.client(controllerUser);
  const subresource = about === "all" ? undefined : "status";
  await cluster.kube.wait("it to be forbidden", async () => {
    const patching = client.patch(objects.volumeAttachments, { name: "none" }, {}, subresource);
    return await patching.then(
      () => undefined,
      (error) => error instanceof KubeError && error.status === 403 || undefined,
    );
  });
}

/** Waits for the next second: creation times are whole seconds. */
async function nextSecond({ kube }: Cluster): Promise<void> {
  const now = Math.floor(Date.now() / 1000);
  await kube.wait("the next second", () => Math.floor(Date.now() / 1000) > now || undefined);
}

scenario(
  "after a crash the state is what the VolumeAttachments say: 1, 2 and 3 nodes, and stale annotations",
  async (cluster) => {
    const { kube } = cluster;
    await makeClaim(cluster, "one");
    const one = await bound(cluster, "one");
    await makeClaim(cluster, "none");
    const none = await bound(cluster, "none");
    const [two, three] = [await shared(cluster, "two"), await shared(cluster, "three")];
    await attach(cluster, "one-a", { node: "node-a", volume: one.name });
    for (const node of ["a", "b"]) {
      await attach(cluster, `two-${node}`, { node: `node-${node}`, volume: two.name });
      await attach(cluster, `three-${node}`, { node: `node-${node}`, volume: three.name });
      await Promise.all([attached(cluster, `two-${node}`), attached(cluster, `three-${node}`)]);
    }
    await attached(cluster, "one-a");

    await cluster.replica.crash();
    // An older driver wrote them, and nobody took them away.
    const annotations = {
      "rds.csi.srvlab.io/attached-node": "node-c",
      "rds.csi.srvlab.io/attached-at": "2020-01-01T00:00:00Z",
    };
    for (const { name } of [one, none]) {
      await kube.patch(objects.persistentVolumes, { name }, { metadata: { annotations } });
    }
    await attachedEarlier(cluster, "three-c", { node: "node-c", volume: three.name, id: three.id });
    await cluster.replica.start();

    assertEquals(await counted(cluster), { attached: 6, claimed: 0 });
    assertEquals(await published(cluster, one.id), ["node-a"]);
    assertEquals(await published(cluster, none.id), []);
    assertEquals(await published(cluster, two.id), ["node-a", "node-b"]);
    assertEquals(await published(cluster, three.id), ["node-a", "node-b", "node-c"]);
    assertMatch(cluster.replica.output, /the attachments are known attached=6 claims=0/);
    assertMatch(cluster.replica.output, /more than two nodes have a volume .*nodes="?node-a and node-b and node-c/);
    await kube.wait(
      "the migrations to be counted",
      async () => await metricOf(cluster, "migration_active_migrations") === 2 || undefined,
    );

    await attach(cluster, "one-c", { node: "node-c", volume: one.name });
    await refusedBecause(cluster, "one-c", "it is attached to node-a");
    await attach(cluster, "two-c", { node: "node-c", volume: two.name });
    await refusedBecause(cluster, "two-c", "it is attached to node-a and node-b");
    assertEquals(await counted(cluster), { attached: 6, claimed: 2 });
    await attach(cluster, "none-b", { node: "node-b", volume: none.name });
    await attached(cluster, "none-b");
    for (const name of ["one-c", "two-c", "none-b", "one-a", "two-a", "two-b", "three-a", "three-b", "three-c"]) {
      await detach(cluster, name);
    }
    assertEquals(await counted(cluster), { attached: 0, claimed: 0 });
    const started = (await reasonsOf(cluster, "two")).filter((reason) => reason === "MigrationStarted");
    assertEquals(started.length, 1, "a restart told of the migration once more");
    for (const claim of ["one", "none", "two", "three"]) await removeClaim(cluster, claim);
  },
);

scenario(
  "attachments of PVs that are gone count, one without a PV's name does not, and none fails the start",
  async (cluster) => {
    const { kube, replica } = cluster;
    const uuid = "10000000-0000-0000-0000-000000000000";
    using before = csi(cluster);
    const size = { requiredBytes: 1024n ** 3n };
    // Block and ReadWriteMany: what is asked for does not count where there is no PV to say so.
    const { volume } = await before.createVolume({
      name: `pvc-${uuid}`,
      capacityRange: size,
      volumeCapabilities: [publishing("", "", Mode.MULTI_NODE_MULTI_WRITER).volumeCapability],
    });
    const id = volume?.volumeId ?? "";
    await replica.crash();
    await attachedEarlier(cluster, "lost-a", { node: "node-a", volume: `pvc-${uuid}` });
    // Kubernetes itself makes such ones only for drivers that took over volumes of older kinds.
    const inline = { accessModes: ["ReadWriteOnce"], csi: { driver: DRIVER, volumeHandle: id } };
    const source: Record<string, unknown> & { persistentVolumeName?: string } = { inlineVolumeSpec: inline };
    const spec = { attacher: DRIVER, nodeName: "node-c", source };
    await kube.create(objects.volumeAttachments, { metadata: { name: "nameless" }, spec });
    await kube.patch(objects.volumeAttachments, { name: "nameless" }, { status: { attached: true } }, "status");
    await replica.start();

    assertEquals(await counted(cluster), { attached: 1, claimed: 0 });
    assertEquals(await published(cluster, id), ["node-a"]);
    // Nor is anything granted to one.
    await kube.create(objects.volumeAttachments, { metadata: { name: "nameless-too" }, spec });
    await refusedBecause(cluster, "nameless-too", "its attachment is not seen yet");
    await kube.patch(objects.volumeAttachments, { name: "nameless-too" }, { metadata: { finalizers: null } });
    await kube.delete(objects.volumeAttachments, { name: "nameless-too" });
    assertMatch(replica.output, /it is left as it was .*nameless names no PersistentVolume: it is skipped/);
    await attach(cluster, "lost-b", { node: "node-b", volume: `pvc-${uuid}` });
    using controller = csi(cluster);
    await refusal(
      cluster,
      () => controller.controllerPublishVolume(publishing(id, "node-b", Mode.MULTI_NODE_MULTI_WRITER)),
      "it is attached to node-a",
    );
    await refusal(cluster, () => controller.deleteVolume({ volumeId: id }), "it is deleted once it is detached");
    for (const name of ["lost-a", "lost-b", "nameless"]) {
      await kube.patch(objects.volumeAttachments, { name }, { metadata: { finalizers: null } });
      await kube.delete(objects.volumeAttachments, { name });
    }
    await kube.wait("nobody to have it", async () => (await counted(cluster)).claimed === 0 || undefined);
    await answered(cluster, () => controller.deleteVolume({ volumeId: id }));
  },
);

scenario("an attachment that is being deleted is held until it is gone, also across a crash", async (cluster) => {
  const { kube } = cluster;
  await makeClaim(cluster, "leaving");
  const { name, id } = await bound(cluster, "leaving");
  await attach(cluster, "leaving-a", { node: "node-a", volume: name });
  await attached(cluster, "leaving-a");
  await silenceAttacher(cluster, "all");
  await kube.delete(objects.volumeAttachments, { name: "leaving-a" });
  await eventOf(cluster, "leaving", "was detached from node-a");
  await cluster.crash();
  // The release was answered, and nobody could write that down.
  assertEquals(await counted(cluster), { attached: 1, claimed: 0 });
  assertEquals(await published(cluster, id), ["node-a"]);
  await attach(cluster, "leaving-b", { node: "node-b", volume: name });
  using controller = csi(cluster);
  await kube.wait("the new attachment to be seen", async () => (await counted(cluster)).claimed === 1 || undefined);
  const asking = () => controller.controllerPublishVolume(publishing(id, "node-b"));
  await refusal(cluster, asking, "it is attached to node-a");
  assertEquals(await published(cluster, id), ["node-a"]);
  await setRules(cluster, {});
  await kube.gone(objects.volumeAttachments, { name: "leaving-a" });
  await attached(cluster, "leaving-b");
  assertEquals(await published(cluster, id), ["node-b"]);
  await detach(cluster, "leaving-b");
  await removeClaim(cluster, "leaving");
});

scenario(
  "a grant that was answered and has not appeared yet is not given to a newer one after a crash",
  async (cluster) => {
    const { kube, replica } = cluster;
    await makeClaim(cluster, "granted");
    const { name, id } = await bound(cluster, "granted");
    await silenceAttacher(cluster, "status");
    await attach(cluster, "granted-a", { node: "node-a", volume: name });
    await eventOf(cluster, "granted", "was attached to node-a");
    await replica.crash();
    await nextSecond(cluster);
    await attach(cluster, "granted-b", { node: "node-b", volume: name });
    await setRules(cluster, {});
    await replica.start();

    assertEquals(await counted(cluster), { attached: 0, claimed: 2 });
    assertEquals(await published(cluster, id), []);
    await refusedBecause(cluster, "granted-b", "node-a asked for it earlier");
    await refusedBecause(cluster, "granted-a", "asked for it almost at once");
    // The attacher's word comes late.
    const status = { attached: true, attachmentMetadata: { volume_id: id }, attachError: null };
    await kube.patch(objects.volumeAttachments, { name: "granted-a" }, { status }, "status");
    await kube.wait("the grant to be seen", async () => (await counted(cluster)).attached === 1 || undefined);
    assertEquals(await published(cluster, id), ["node-a"]);
    using controller = csi(cluster);
    await refusal(
      cluster,
      () => controller.controllerPublishVolume(publishing(id, "node-b")),
      "it is attached to node-a",
    );
    await detach(cluster, "granted-a");
    await attached(cluster, "granted-b");
    await detach(cluster, "granted-b");
    await removeClaim(cluster, "granted");
  },
);

scenario("of two claims the older one gets the volume when the newer one goes", async (cluster) => {
  await makeClaim(cluster, "rivals");
  const { name, id } = await bound(cluster, "rivals");
  await cluster.replica.crash();
  await attach(cluster, "rivals-a", { node: "node-a", volume: name });
  await nextSecond(cluster);
  await attach(cluster, "rivals-b", { node: "node-b", volume: name });
  await cluster.replica.start();
  await refusedBecause(cluster, "rivals-b", "node-a asked for it earlier");
  await detach(cluster, "rivals-b");
  await attached(cluster, "rivals-a");
  assertEquals(await published(cluster, id), ["node-a"]);
  await detach(cluster, "rivals-a");
  await removeClaim(cluster, "rivals");
});

scenario(
  "ControllerUnpublish without a node takes the volume from all: those that may still write are cut off",
  async (cluster) => {
    const { name, id } = await shared(cluster, "everywhere");
    for (const node of ["a", "b"]) {
      await attach(cluster, `everywhere-${node}`, { node: `node-${node}`, volume: name });
      await attached(cluster, `everywhere-${node}`);
    }
    const nqn = diskOf(cluster, id)?.["nvme-tcp-server-nqn"];
    await setReady(cluster, "node-b", false);
    using controller = csi(cluster);
    await answered(cluster, () => controller.controllerUnpublishVolume({ volumeId: id }));
    assertEquals(diskOf(cluster, id)?.["nvme-tcp-server-nqn"], `${nqn}.g1`);
    for (const node of ["node-a", "node-b"]) await eventOf(cluster, "everywhere", `was detached from ${node}`);
    const { metadata } = await cluster.kube.get(objects.persistentVolumes, { name });
    assertEquals(metadata.annotations?.["rds.csi.srvlab.io/attached-node"], undefined);
    // Who has it is still what the VolumeAttachments say.
    assertEquals(await published(cluster, id), ["node-a", "node-b"]);
    await answered(cluster, () => controller.controllerUnpublishVolume({ volumeId: id }));
    await controller.controllerUnpublishVolume({ volumeId: `pvc-${"f".repeat(28)}` });
    assertEquals(diskOf(cluster, id)?.["nvme-tcp-server-nqn"], `${nqn}.g1`, "it was cut off twice");
    await setReady(cluster, "node-b", true);
    for (const node of ["a", "b"]) await detach(cluster, `everywhere-${node}`);
    await removeClaim(cluster, "everywhere");
  },
);

scenario(
  "while the API server is away the controller does not start: it serves nothing, and ends with the reason",
  async (cluster) => {
    const { replica, kube } = cluster;
    await replica.crash();
    await Deno.remove(replica.socket).catch(() => {});
    const { promise: over, resolve: end } = Promise.withResolvers<void>();
    const back = replica.proxy.away(8000);
    let isOver = false;
    const watching = kube.wait("the start to end", async () => {
      const socket = await Deno.stat(replica.socket).catch(() => undefined);
      assertEquals(socket, undefined, "it serves before it knows who has what");
      return isOver || undefined;
    });
    const starting = replica.start({ "rebuild-deadline": "4s" }).finally(() => (isOver = true, end()));
    const error = await assertRejects(() => starting, Error, "ended with status 1");
    await over;
    await watching;
    assertMatch(
      String(error),
      /who has which volume could not be read from Kubernetes within 4 s \(--rebuild-deadline\), and without that nothing is safe/,
    );
    await back;

    // One that is away for less than the deadline is waited for.
    const away = replica.proxy.away(3000);
    await replica.start();
    await away;
    assertEquals(await kube.list(objects.claims, WORK), []);
    assert(replica.isUp);
  },
);
