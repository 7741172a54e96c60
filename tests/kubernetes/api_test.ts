import { assert, assertEquals, assertMatch } from "@std/assert";
import type { ApiProxy, Match } from "../lab/kubernetes/api_proxy.ts";
import { startAuditor } from "../lab/kubernetes/auditor.ts";
import { type Cluster, DRIVER } from "../lab/kubernetes/cluster.ts";
import * as objects from "../lab/kubernetes/objects.ts";
import { scenarios } from "./scenarios.ts";
import { attach, attached, bound, detach, makeClaim, metricOf, refusedBecause, removeClaim } from "./steps.ts";

const scenario = scenarios({ proxy: true });

const NODE = "rds.csi.srvlab.io/attached-node";

/** A scenario with an API server that misbehaves: whatever it does, nobody gets a volume that another node has. */
function audited(name: string, run: (cluster: Cluster, proxy: ApiProxy) => Promise<void>): void {
  scenario(name, async (cluster) => {
    const { kube, simulator, replica } = cluster;
    await using auditor = await startAuditor(kube, { driver: DRIVER, simulator });
    try {
      await run(cluster, replica.proxy);
    } finally {
      replica.proxy.behave();
    }
    await auditor.assertSound();
    assertEquals(await kube.list(objects.volumeAttachments), []);
    assert(replica.isUp);
    replica.controller.assertRunning();
  });
}

/** Changes of a PV: what the driver writes its annotations by. */
const changesOfPvs: Match = (method, path) => method === "PATCH" && /\/persistentvolumes\/[^/]+$/.test(path);
/** Lists and watches of attachments and PVs. */
const lists: Match = (method, path) => method === "GET" && /\/(persistentvolumes|volumeattachments)$/.test(path);

/** A volume of its own. */
async function volume(cluster: Cluster, claim: string): Promise<string> {
  await makeClaim(cluster, claim);
  return (await bound(cluster, claim)).name;
}

async function isAttached({ kube }: Cluster, name: string): Promise<boolean> {
  return (await kube.get(objects.volumeAttachments, { name })).status?.attached ?? false;
}

async function shownNode({ kube }: Cluster, name: string): Promise<string | undefined> {
  return (await kube.get(objects.persistentVolumes, { name })).metadata.annotations?.[NODE];
}

/** A second node is refused; it gets the volume when the first has let go. Nothing is left in the end. */
async function handOver(cluster: Cluster, claim: string, volume: string): Promise<void> {
  await attach(cluster, `${claim}-second`, { node: "node-b", volume });
  await refusedBecause(cluster, `${claim}-second`, "it is attached to node-a");
  await detach(cluster, claim);
  await attached(cluster, `${claim}-second`);
  await detach(cluster, `${claim}-second`);
  await removeClaim(cluster, claim);
}

audited(
  "the API server is away for 20 s: nothing is granted nor released meanwhile, and all of it is after",
  async (cluster, proxy) => {
    const { kube } = cluster;
    const names = ["held", "left", "asked", "begun"];
    const volumes = await Promise.all(names.map((name) => volume(cluster, name)));
    const [held = "", left = "", asked = "", begun = ""] = volumes;
    await attach(cluster, "held", { node: "node-a", volume: held });
    await attach(cluster, "left", { node: "node-a", volume: left });
    await Promise.all([attached(cluster, "held"), attached(cluster, "left")]);

    await attach(cluster, "begun", { node: "node-a", volume: begun });
    const back = proxy.away(20_000);
    let isBack = false;
    back.then(() => isBack = true);
    await kube.wait(
      "the API server to be away",
      async () => await metricOf(cluster, "kubernetes_watch_age_seconds") !== undefined || undefined,
    );
    await attach(cluster, "asked", { node: "node-a", volume: asked });
    await kube.delete(objects.volumeAttachments, { name: "left" });
    await attach(cluster, "left-second", { node: "node-b", volume: left });
    await attach(cluster, "held-second", { node: "node-b", volume: held });
    for (const name of ["asked", "held-second", "left-second"]) {
      await refusedBecause(cluster, name, "the Kubernetes API cannot be reached");
    }
    // A second try that comes while the first is under way is told that, for a moment.
    await kube.until(
      objects.volumeAttachments,
      { name: "left" },
      ({ status }) => status?.detachError?.message?.includes("the Kubernetes API cannot be reached") ?? false,
    );
    if (!isBack) {
      assertEquals([await isAttached(cluster, "asked"), await isAttached(cluster, "left-second")], [false, false]);
    }
    await back;

    await Promise.all(["asked", "begun", "left-second"].map((name) => attached(cluster, name)));
    await kube.gone(objects.volumeAttachments, { name: "left" });
    await refusedBecause(cluster, "held-second", "it is attached to node-a");
    assert(await isAttached(cluster, "held"));
    for (const name of ["held-second", "held", "left-second", "asked", "begun"]) {
      await detach(cluster, name);
    }
    await Promise.all(names.map((name) => removeClaim(cluster, name)));
  },
);

audited("an API server that takes a second for each answer is waited for", async (cluster, proxy) => {
  const name = await volume(cluster, "slow");
  proxy.slow(1000);
  await attach(cluster, "slow", { node: "node-a", volume: name });
  await attached(cluster, "slow");
  assertEquals(await shownNode(cluster, name), "node-a");
  await handOver(cluster, "slow", name);
});

audited(
  "annotations: a conflict is tried again, and where they cannot be written nothing is granted",
  async (cluster, proxy) => {
    const { kube } = cluster;
    const name = await volume(cluster, "noted");
    proxy.answer(409, { times: 3, match: changesOfPvs });
    await attach(cluster, "noted", { node: "node-a", volume: name });
    await attached(cluster, "noted");
    assertEquals([proxy.waiting, await shownNode(cluster, name)], [0, "node-a"]);
    assertEquals((await kube.get(objects.volumeAttachments, { name: "noted" })).status?.attachError, undefined);

    // A failed clearing keeps no volume on its node.
    proxy.answer(500, { times: Infinity, match: changesOfPvs });
    await detach(cluster, "noted");
    assertEquals(await shownNode(cluster, name), "node-a");
    assertMatch(cluster.replica.output, /the annotations of a PV still show a node that has left/);

    for (const [number, status] of [409, 500, 403].entries()) {
      proxy.behave();
      proxy.answer(status, { times: Infinity, match: changesOfPvs });
      const attachment = `noted-${number}`;
      await attach(cluster, attachment, { node: "node-b", volume: name });
      await refusedBecause(cluster, attachment, `PATCH /api/v1/persistentvolumes/${name}: ${status}`);
      assertEquals([await isAttached(cluster, attachment), await shownNode(cluster, name)], [false, "node-a"]);
      assertEquals(await metricOf(cluster, "attachments_attached"), 0);
      proxy.behave();
      await attached(cluster, attachment);
      assertEquals(await shownNode(cluster, name), "node-b");
      // The next one begins where nothing is right.
      proxy.answer(500, { times: Infinity, match: changesOfPvs });
      await detach(cluster, attachment);
      proxy.behave();
      const annotations = { [NODE]: "node-a" };
      await kube.patch(objects.persistentVolumes, { name }, { metadata: { annotations } });
    }

    // It is written, and only the answer is lost.
    proxy.answer(500, { times: 2, match: changesOfPvs, afterwards: true });
    await attach(cluster, "noted", { node: "node-a", volume: name });
    await attached(cluster, "noted");
    await handOver(cluster, "noted", name);
  },
);

audited(
  "410: watches that are too old and lists that cannot go on are begun anew, and show what was missed",
  async (cluster, proxy) => {
    const { kube } = cluster;
    const name = await volume(cluster, "expired");
    await attach(cluster, "expired", { node: "node-a", volume: name });
    await attached(cluster, "expired");
    await kube.wait("the watches to be there", () => proxy.expireWatches() >= 2 || undefined);
    await attach(cluster, "expired-second", { node: "node-b", volume: name });
    await refusedBecause(cluster, "expired-second", "it is attached to node-a");

    // Two that come and one that goes in a time that no watch will ever tell of.
    proxy.freezeWatches();
    await attach(cluster, "expired-third", { node: "node-c", volume: name });
    await kube.patch(objects.volumeAttachments, { name: "expired-second" }, { metadata: { finalizers: null } });
    await kube.delete(objects.volumeAttachments, { name: "expired-second" });
    await kube.gone(objects.volumeAttachments, { name: "expired-second" });
    proxy.answer(410, { times: 4, match: lists });
    await kube.wait("the watches to be there", () => proxy.expireWatches() >= 1 || undefined);
    proxy.thaw();
    await refusedBecause(cluster, "expired-third", "it is attached to node-a");
    await kube.wait("all to be known", async () => await metricOf(cluster, "attachments_claimed") === 1 || undefined);
    await detach(cluster, "expired-third");
    // And to whatever else.
    proxy.answer(410, { times: 3, match: (method) => method === "GET" });
    await handOver(cluster, "expired", name);
  },
);

for (const status of [429, 500]) {
  audited(`${status}: whatever is asked for is asked for again`, async (cluster, proxy) => {
    const claim = `answer-${status}`;
    const name = await volume(cluster, claim);
    proxy.answer(status, { times: 3, match: lists });
    proxy.answer(status, { times: 10 });
    proxy.expireWatches();
    await attach(cluster, claim, { node: "node-a", volume: name });
    await attached(cluster, claim);
    assertEquals(await shownNode(cluster, name), "node-a");
    proxy.answer(status, { times: 5 });
    proxy.answer(status, { times: 3, afterwards: true });
    await handOver(cluster, claim, name);
  });
}

audited("while the watches tell nothing, nobody gets anything on their word", async (cluster, proxy) => {
  const name = await volume(cluster, "silent");
  proxy.freezeWatches();
  await attach(cluster, "silent", { node: "node-a", volume: name });
  await refusedBecause(cluster, "silent", "its attachment is not seen yet");
  proxy.thaw();
  await attached(cluster, "silent");

  // It lets go, and no watch tells of that: the next one must wait for the news.
  proxy.freezeWatches();
  await detach(cluster, "silent");
  await attach(cluster, "silent-second", { node: "node-b", volume: name });
  await refusedBecause(cluster, "silent-second", "is not seen yet");
  proxy.thaw();
  await attached(cluster, "silent-second");
  await detach(cluster, "silent-second");
  await removeClaim(cluster, "silent");
});
