import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { type Cluster, WORK } from "../lab/kubernetes/cluster.ts";
import * as objects from "../lab/kubernetes/objects.ts";
import { checkMetrics } from "../lab/promtool.ts";
import { scenarios } from "./scenarios.ts";
import {
  attach,
  attached,
  bound,
  detach,
  eventOf,
  makeClaim,
  makeClass,
  metricOf,
  reasonsOf,
  refused,
  removeClaim,
} from "./steps.ts";

const scenario = scenarios({ settings: { "log-level": "DEBUG", "reset-lifetime": "2s" } });

const NODE = "rds.csi.srvlab.io/attached-node";
const AT = "rds.csi.srvlab.io/attached-at";

async function annotationsOf(cluster: Cluster, name: string): Promise<Record<string, string>> {
  return (await cluster.kube.get(objects.persistentVolumes, { name })).metadata.annotations ?? {};
}

/** A claim for a ReadWriteMany block volume, bound. */
async function shared(cluster: Cluster, name: string, parameters: Record<string, string> = {}) {
  await makeClass(cluster, `class-${name}`, parameters);
  const spec = { accessModes: ["ReadWriteMany"], volumeMode: "Block" as const, storageClassName: `class-${name}` };
  await makeClaim(cluster, name, spec);
  return await bound(cluster, name);
}

scenario("the PV says which node has it, and the claim's events tell what happened", async (cluster) => {
  await makeClaim(cluster, "told");
  const { name, id } = await bound(cluster, "told");
  // What an older driver left there means nothing.
  const old = { [NODE]: "node-c", [AT]: "2020-01-01T00:00:00.000000Z" };
  await cluster.kube.patch(objects.persistentVolumes, { name }, { metadata: { annotations: old } });
  await attach(cluster, "told-a", { node: "node-a", volume: name });
  await attached(cluster, "told-a");
  const annotations = await annotationsOf(cluster, name);
  assertEquals(annotations[NODE], "node-a");
  assert(Date.parse(annotations[AT] ?? "") > Date.now() - 120_000, annotations[AT]);

  await attach(cluster, "told-b", { node: "node-b", volume: name });
  assertStringIncludes(await refused(cluster, "told-b"), `${id} is refused to node-b: it is attached to node-a`);
  const conflict = await eventOf(cluster, "told", "is refused to node-b");
  assertEquals([conflict.type, conflict.reason], ["Warning", "AttachmentConflict"]);
  await detach(cluster, "told-b");
  await detach(cluster, "told-a");
  await cluster.kube.until(objects.persistentVolumes, { name }, (pv) => !pv.metadata.annotations?.[NODE]);
  assertEquals((await annotationsOf(cluster, name))[AT], undefined);
  await eventOf(cluster, "told", "was attached to node-a");
  await eventOf(cluster, "told", "was detached from node-a");
  await removeClaim(cluster, "told");
});

scenario("a live migration: both nodes are shown, and it is completed when the source lets go", async (cluster) => {
  const { name } = await shared(cluster, "moving");
  const before = await metricOf(cluster, "migration_migrations_total", { result: "success" });
  await attach(cluster, "moving-a", { node: "node-a", volume: name });
  await attached(cluster, "moving-a");
  await attach(cluster, "moving-b", { node: "node-b", volume: name });
  await attached(cluster, "moving-b");
  assertEquals((await annotationsOf(cluster, name))[NODE], "node-a,node-b");
  await eventOf(cluster, "moving", "from node-a to node-b began");
  assertEquals(await metricOf(cluster, "migration_active_migrations"), 1);
  await detach(cluster, "moving-a");
  const completed = await eventOf(cluster, "moving", "was completed");
  assertEquals([completed.type, completed.reason], ["Normal", "MigrationCompleted"]);
  assertEquals((await annotationsOf(cluster, name))[NODE], "node-b");
  await cluster.kube.wait(
    "the migration to be counted",
    async () =>
      await metricOf(cluster, "migration_migrations_total", { result: "success" }) === (before ?? 0) + 1 || undefined,
  );
  assertEquals(await metricOf(cluster, "migration_active_migrations"), 0);
  await detach(cluster, "moving-b");
  await removeClaim(cluster, "moving");
});

scenario(
  "a live migration fails when the target lets go, and one that takes too long is told once",
  async (cluster) => {
    const { name } = await shared(cluster, "staying", { migrationTimeoutSeconds: "30" });
    await attach(cluster, "staying-a", { node: "node-a", volume: name });
    await attached(cluster, "staying-a");
    await attach(cluster, "staying-b", { node: "node-b", volume: name });
    await attached(cluster, "staying-b");
    // Across a restart: the timer is the attachment's, not the process'.
    await cluster.crash();
    const late = await eventOf(cluster, "staying", "takes longer than 30 s");
    assertEquals([late.type, late.reason], ["Warning", "MigrationTimeout"]);
    assertEquals((await cluster.kube.list(objects.volumeAttachments)).map(({ status }) => status?.attached), [
      true,
      true,
    ]);
    await detach(cluster, "staying-b");
    const failed = await eventOf(cluster, "staying", "failed: the target has let go");
    assertEquals([failed.type, failed.reason], ["Warning", "MigrationFailed"]);
    await cluster.crash();
    await detach(cluster, "staying-a");
    const reasons = await reasonsOf(cluster, "staying");
    assertEquals(reasons.filter((reason) => reason.startsWith("Migration")).sort(), [
      "MigrationFailed",
      "MigrationStarted",
      "MigrationTimeout",
    ]);
    await removeClaim(cluster, "staying");
  },
);

scenario("a third node is refused while two have a volume, and what the metrics say is well made", async (cluster) => {
  const { name } = await shared(cluster, "crowded");
  for (const node of ["a", "b"]) {
    await attach(cluster, `crowded-${node}`, { node: `node-${node}`, volume: name });
    await attached(cluster, `crowded-${node}`);
  }
  await attach(cluster, "crowded-c", { node: "node-c", volume: name });
  assertMatch(await refused(cluster, "crowded-c"), /attached to node-a and node-b, and two nodes at once/);
  const text = await cluster.replica.metrics();
  await checkMetrics(text);
  assertEquals(await metricOf(cluster, "attachments_attached"), 2);
  assertEquals(await metricOf(cluster, "attachments_claimed"), 1);
  assert((await metricOf(cluster, "attachment_conflicts_total") ?? 0) >= 1);
  assert((await metricOf(cluster, "attachment_attach_total", { status: "success" }) ?? 0) >= 2);
  assert((await metricOf(cluster, "attachment_attach_total", { status: "failure" }) ?? 0) >= 1);
  for (const node of ["c", "a", "b"]) await detach(cluster, `crowded-${node}`);
  assert((await metricOf(cluster, "attachment_detach_total", { status: "success" }) ?? 0) >= 2);
  await removeClaim(cluster, "crowded");
});

scenario(
  "an attachment to a node that does not exist is refused, and one whose node goes is let go",
  async (cluster) => {
    await makeClaim(cluster, "nowhere");
    const { name } = await bound(cluster, "nowhere");
    await attach(cluster, "nowhere-x", { node: "node-x", volume: name });
    assertMatch(await refused(cluster, "nowhere-x"), /node-x.*not found|no node 'node-x'/);
    await detach(cluster, "nowhere-x");
    await removeClaim(cluster, "nowhere");
    assertEquals(await cluster.kube.list(objects.claims, WORK), []);
  },
);

scenario(
  "what asks a node to try again is taken off the PV when nodes have had the time to read it",
  async (cluster) => {
    const reset = "rds.csi.srvlab.io/reset-circuit-breaker";
    await makeClaim(cluster, "reset");
    const { name } = await bound(cluster, "reset");
    const annotations = { [reset]: "true", "else": "stays" };
    await cluster.kube.patch(objects.persistentVolumes, { name }, { metadata: { annotations } });
    await cluster.kube.until(
      objects.persistentVolumes,
      { name },
      (pv) => !("rds.csi.srvlab.io/reset-circuit-breaker" in (pv.metadata.annotations ?? {})),
    );
    assertEquals((await annotationsOf(cluster, name))["else"], "stays");
    await removeClaim(cluster, "reset");
  },
);
