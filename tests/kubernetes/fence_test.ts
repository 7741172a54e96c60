import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { startAuditor } from "../lab/kubernetes/auditor.ts";
import { type Cluster, DRIVER } from "../lab/kubernetes/cluster.ts";
import * as objects from "../lab/kubernetes/objects.ts";
import { scenarios } from "./scenarios.ts";
import {
  addNode,
  attach,
  attached,
  bound,
  detach,
  diskOf,
  eventOf,
  makeClaim,
  metricOf,
  reasonsOf,
  refused,
  removeClaim,
  removeNode,
  setReady,
  setVolumesInUse,
  taintOutOfService,
} from "./steps.ts";

const scenario = scenarios();

function nqnOf(cluster: Cluster, id: string): string {
  const disk = diskOf(cluster, id);
  assertEquals(disk?.["nvme-tcp-export"], true);
  return String(disk?.["nvme-tcp-server-nqn"]);
}

/** A volume that node-a has and node-b asks for. */
async function held(cluster: Cluster, claim: string) {
  await makeClaim(cluster, claim);
  const { name, id } = await bound(cluster, claim);
  await attach(cluster, `${claim}-a`, { node: "node-a", volume: name });
  await attached(cluster, `${claim}-a`);
  await attach(cluster, `${claim}-b`, { node: "node-b", volume: name });
  return { id, name, nqn: nqnOf(cluster, id) };
}

/** What makes a node dangerous, and what mends it. */
const dangers: {
  what: string;
  why: RegExp;
  begin(cluster: Cluster, id: string): Promise<void>;
  end(cluster: Cluster): Promise<void>;
}[] = [
  {
    what: "is not Ready",
    why: /not Ready/,
    begin: (cluster) => setReady(cluster, "node-a", false),
    end: (cluster) => setReady(cluster, "node-a", true),
  },
  {
    what: "still lists the volume in use",
    why: /volumesInUse/,
    begin: (cluster, id) => setVolumesInUse(cluster, "node-a", [id]),
    end: (cluster) => setVolumesInUse(cluster, "node-a", []),
  },
  {
    what: "is out of service",
    why: /out-of-service/,
    begin: (cluster) => taintOutOfService(cluster, "node-a", true),
    end: (cluster) => taintOutOfService(cluster, "node-a", false),
  },
  {
    what: "is gone",
    why: /gone from Kubernetes/,
    begin: (cluster) => removeNode(cluster, "node-a"),
    end: (cluster) => addNode(cluster, "node-a"),
  },
];

for (const [number, danger] of dangers.entries()) {
  scenario(`a node that ${danger.what} is cut off before the next one gets its volume`, async (cluster) => {
    const claim = `danger-${number}`;
    const { id, nqn } = await held(cluster, claim);
    await using auditor = await startAuditor(cluster.kube, { driver: DRIVER, simulator: cluster.simulator });
    await danger.begin(cluster, id);
    // When the second node gets it, RouterOS has long had the new name, and no longer the old one.
    await detach(cluster, `${claim}-a`);
    const context = await attached(cluster, `${claim}-b`);
    assertEquals(context["nvme_nqn"], `${nqn}.g1`);
    assertEquals(nqnOf(cluster, id), `${nqn}.g1`);
    assert(!cluster.simulator.state().exports.includes(nqn));
    await auditor.assertSound();
    const event = await eventOf(cluster, claim, "was cut off from the volume");
    assertMatch(event.message ?? "", danger.why);
    await danger.end(cluster);
    await detach(cluster, `${claim}-b`);
    assertEquals(nqnOf(cluster, id), `${nqn}.g1`, "a node that has let go in good order was cut off");
    await removeClaim(cluster, claim);
  });
}

scenario("while RouterOS refuses the fence nobody else gets the volume, and the claim tells why", async (cluster) => {
  const { id, nqn } = await held(cluster, "stubborn");
  const fault = {
    action: "error",
    command: "disk set",
    argument: "nvme-tcp-export=no",
    text: "not enough permissions (9)",
    times: 3,
  } as const;
  cluster.simulator.faults.add(fault);
  await setReady(cluster, "node-a", false);
  await cluster.kube.delete(objects.volumeAttachments, { name: "stubborn-a" });
  const { status } = await cluster.kube.until(
    objects.volumeAttachments,
    { name: "stubborn-a" },
    ({ status }) => Boolean(status?.detachError?.message),
  );
  assertMatch(status?.detachError?.message ?? "", /Unavailable.*not cut off.*not enough permissions.*--fence=off/s);
  const other = await cluster.kube.get(objects.volumeAttachments, { name: "stubborn-b" });
  assertEquals(other.status?.attached ?? false, false);
  await eventOf(cluster, "stubborn", "cannot be cut off");
  // The attacher tries again until it is done.
  await cluster.kube.gone(objects.volumeAttachments, { name: "stubborn-a" });
  assertEquals((await attached(cluster, "stubborn-b"))["nvme_nqn"], `${nqn}.g1`);
  assertEquals(nqnOf(cluster, id), `${nqn}.g1`);
  await setReady(cluster, "node-a", true);
  await detach(cluster, "stubborn-b");
  await removeClaim(cluster, "stubborn");
});

scenario(
  "a node is not cut off while another one works with the volume, but when that one has left",
  async (cluster) => {
    await makeClaim(cluster, "owed", { accessModes: ["ReadWriteMany"], volumeMode: "Block" });
    const { name, id } = await bound(cluster, "owed");
    const nqn = nqnOf(cluster, id);
    for (const node of ["a", "b"]) {
      await attach(cluster, `owed-${node}`, { node: `node-${node}`, volume: name });
      await attached(cluster, `owed-${node}`);
    }
    await setReady(cluster, "node-a", false);
    await detach(cluster, "owed-a");
    assertEquals(nqnOf(cluster, id), nqn);
    assertStringIncludes(
      (await eventOf(cluster, "owed", "is not cut off while node-b uses it")).message ?? "",
      "node-a",
    );
    // What is owed is not forgotten by a controller that starts anew.
    await cluster.crash();
    assertEquals(await metricOf(cluster, "fences_owed"), 1);
    await setReady(cluster, "node-a", true);
    await detach(cluster, "owed-b");
    assertEquals(nqnOf(cluster, id), `${nqn}.g1`);
    const paid = async () => await metricOf(cluster, "fences_owed") === 0 || undefined;
    await cluster.kube.wait("the metric to say that nothing is owed", paid);
    await attach(cluster, "owed-c", { node: "node-c", volume: name });
    assertEquals((await attached(cluster, "owed-c"))["nvme_nqn"], `${nqn}.g1`);
    await detach(cluster, "owed-c");
    assertEquals(nqnOf(cluster, id), `${nqn}.g1`);
    await removeClaim(cluster, "owed");
  },
);

scenario(
  "a machine's second node gets nothing while the first is lost, and then a volume that the first is cut off from",
  async (cluster) => {
    await makeClaim(cluster, "failover", { accessModes: ["ReadWriteMany"], volumeMode: "Block" });
    const { name, id } = await bound(cluster, "failover");
    const nqn = nqnOf(cluster, id);
    await attach(cluster, "failover-a", { node: "node-a", volume: name });
    await attached(cluster, "failover-a");
    await setReady(cluster, "node-a", false);
    await attach(cluster, "failover-b", { node: "node-b", volume: name });
    assertMatch(await refused(cluster, "failover-b"), /attached to node-a, and the node is not Ready.*out-of-service/);
    await detach(cluster, "failover-a");
    assertEquals((await attached(cluster, "failover-b"))["nvme_nqn"], `${nqn}.g1`);
    await setReady(cluster, "node-a", true);
    await detach(cluster, "failover-b");
    await removeClaim(cluster, "failover");
  },
);

scenario("with --fence=off the volume goes to the next node, and the claim says what is risked", async (cluster) => {
  await cluster.replica.crash();
  await cluster.replica.start({ fence: "off" });
  const { id, nqn } = await held(cluster, "risky");
  await setReady(cluster, "node-a", false);
  await detach(cluster, "risky-a");
  assertEquals((await attached(cluster, "risky-b"))["nvme_nqn"], nqn);
  assertEquals(nqnOf(cluster, id), nqn);
  const event = await eventOf(cluster, "risky", "because of --fence=off");
  assertEquals([event.type, event.reason], ["Warning", "FenceSkipped"]);
  assertEquals(await metricOf(cluster, "fences_total", { result: "off" }), 1);
  assert(!(await reasonsOf(cluster, "risky")).includes("VolumeFenced"));
  await setReady(cluster, "node-a", true);
  await detach(cluster, "risky-b");
  await removeClaim(cluster, "risky");
});
