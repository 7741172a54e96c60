import { assert, assertEquals, assertInstanceOf, assertRejects, assertStringIncludes } from "@std/assert";
import { startAuditor } from "../lab/kubernetes/auditor.ts";
import { KubeError } from "../lab/kubernetes/client.ts";
import { type Cluster, controllerUser, HOME, setRules } from "../lab/kubernetes/cluster.ts";
import { makeAttachments } from "../lab/kubernetes/many.ts";
import * as objects from "../lab/kubernetes/objects.ts";
import { clusterRules } from "../lab/kubernetes/rules.ts";
import { checkMetrics } from "../lab/promtool.ts";
import { scenarios } from "./scenarios.ts";
import {
  addNode,
  attach,
  attached,
  bound,
  detach,
  makeClaim,
  removeClaim,
  removeNode,
  setReady,
  setVolumesInUse,
  taintOutOfService,
} from "./steps.ts";

const scenario = scenarios({ replicas: 2, proxy: true, standalone: true });

/** Which replica's provisioner leads. */
async function leader({ kube, replicas }: Cluster): Promise<number> {
  return await kube.wait("a provisioner to lead", () => {
    const leads = ({ outputs }: typeof replicas[number]) =>
      outputs.some(({ name, output }) => name === "csi-provisioner" && output.includes("became leader, starting"));
    const at = replicas.findIndex(leads);
    return at < 0 ? undefined : at;
  });
}

scenario("of two replicas one leads; when it is killed, the other goes on, and it may come back", async (cluster) => {
  const first = cluster.replicas[await leader(cluster)];
  assert(first);
  await makeClaim(cluster, "before");
  await bound(cluster, "before");
  await first.crash();
  assertEquals(cluster.replicas.filter(({ isUp }) => isUp).length, 1);
  await makeClaim(cluster, "after");
  await bound(cluster, "after");
  await first.start();
  for (const name of ["before", "after"]) await removeClaim(cluster, name);
  assertEquals((await cluster.kube.list(objects.leases, HOME)).length, 3);
});

scenario("sidecars whose controller has died end as soon as they need it, come back and go on", async (cluster) => {
  for (const replica of cluster.replicas) await replica.restartController();
  await makeClaim(cluster, "restarted");
  const { name } = await bound(cluster, "restarted");
  await attach(cluster, "restarted-a", { node: "node-a", volume: name });
  await attached(cluster, "restarted-a");
  await detach(cluster, "restarted-a");
  await removeClaim(cluster, "restarted");
  // Those that lead: the others have not asked for anything yet.
  const outputs = cluster.replicas.flatMap(({ outputs }) => outputs);
  const lost = outputs.filter(({ output }) => output.includes("Lost connection to CSI driver"));
  const names = new Set(lost.map(({ name }) => name));
  assert(names.has("csi-provisioner") && names.has("csi-attacher"), `only ${[...names]} ended`);
});

scenario("each replica's metrics are as promtool wants them", async ({ replicas }) => {
  for (const replica of replicas) {
    const text = await replica.metrics();
    assertStringIncludes(text, "rds_csi_build_info");
    await checkMetrics(text);
  }
});

scenario("nodes are Ready, are not, are tainted, use volumes, go and come", async (cluster) => {
  const look = async () => await cluster.kube.get(objects.nodes, { name: "node-b" });
  const isReady = async () => (await look()).status?.conditions?.find(({ type }) => type === "Ready")?.status;
  assertEquals(await isReady(), "True");
  await setReady(cluster, "node-b", false);
  assertEquals(await isReady(), "Unknown");
  await taintOutOfService(cluster, "node-b", true);
  assertEquals((await look()).spec?.taints?.map(({ key }) => key), ["node.kubernetes.io/out-of-service"]);
  await setVolumesInUse(cluster, "node-b", ["pvc-1"]);
  assertEquals((await look()).status?.volumesInUse, ["kubernetes.io/csi/rds.csi.srvlab.io^pvc-1"]);

  await setReady(cluster, "node-b", true);
  await taintOutOfService(cluster, "node-b", false);
  await setVolumesInUse(cluster, "node-b", []);
  const { spec, status } = await look();
  assertEquals([spec?.taints, status?.volumesInUse, await isReady()], [undefined, undefined, "True"]);

  await removeNode(cluster, "node-b");
  assertEquals(await cluster.kube.find(objects.csiNodes, { name: "node-b" }), undefined);
  await addNode(cluster, "node-b");
  assertEquals(await isReady(), "True");
});

scenario("the auditor sees every version of a real API, and what is wrong with it", async ({ kube, simulator }) => {
  // A driver that no attacher sees to.
  const driver = "made.up";
  await using auditor = await startAuditor(kube, { driver, simulator });
  await makeAttachments(kube, { count: 100, driver, nodes: ["node-a", "node-b"], name: "audited" });
  await auditor.assertSound();
  await auditor.assertNothingStuck(0);
  assertEquals(auditor.story("pvc-0000000000000000000000000000").length, 2);

  const second = { attacher: driver, nodeName: "gone", source: { persistentVolumeName: "audited-0" } };
  await kube.create(objects.volumeAttachments, { metadata: { name: "second" }, spec: second });
  await kube.patch(objects.volumeAttachments, { name: "second" }, { status: { attached: true } }, "status");
  await kube.patch(objects.volumeAttachments, { name: "second" }, { status: { attached: false } }, "status");
  const error = await assertRejects(() => auditor.assertSound(), Error, "node-a and gone had pvc-0000");
  assertStringIncludes(String(error), "second on gone: attached");
});

scenario("a proxy before the real API server carries watches, and cuts, expires and counts", async (cluster) => {
  const [replica] = cluster.replicas;
  assert(replica);
  const { proxy } = replica;
  using client = cluster.controlPlane.client(controllerUser, proxy.url);
  const { version } = await client.snapshot(objects.persistentVolumes);
  const signal = AbortSignal.timeout(30_000);
  const spec = {
    accessModes: ["ReadWriteOnce"],
    capacity: { storage: "1Gi" },
    csi: { driver: "d", volumeHandle: "h" },
  };
  await cluster.kube.create(objects.persistentVolumes, { metadata: { name: "watched" }, spec });
  for await (const { object } of client.watch(objects.persistentVolumes, { version, signal })) {
    if (object.metadata.name === "watched") break;
  }
  assertEquals(proxy.count("WATCH", /persistentvolumes/), 1);

  const running = client.watch(objects.volumeAttachments, { version, signal });
  proxy.answer(410);
  const gone = await assertRejects(() => running.next(), KubeError);
  assertInstanceOf(gone, KubeError);
  assertEquals(gone.status, 410);
  const back = proxy.away(100);
  await assertRejects(() => client.list(objects.persistentVolumes));
  await back;
  await client.list(objects.persistentVolumes);
});

scenario("a rule that is taken away is missed at once", async (cluster) => {
  using client = cluster.controlPlane.client(controllerUser);
  const allowed = async () => await client.list(objects.pods).then(() => true, () => undefined);
  assert(await allowed());
  await setRules(cluster, { cluster: clusterRules.filter(({ resources }) => !resources.includes("pods")) });
  await cluster.kube.wait("pods to be forbidden", async () => await allowed() ? undefined : true);
  await setRules(cluster, {});
  await cluster.kube.wait("pods to be allowed", allowed);
  const elsewhere = { metadata: { name: "a", namespace: "work" } };
  await client.create(objects.leases, { metadata: { name: "own", namespace: HOME } });
  await assertRejects(() => client.create(objects.leases, elsewhere), KubeError, "403");
});
