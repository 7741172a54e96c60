import { assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { Unreachable } from "../runtime/errors.ts";
import { atWork, type NodeObject, whyDangerous } from "./danger.ts";
import type { FakeApi } from "./fake_api.ts";
import { holding } from "./fake_export.ts";
import {
  annotationsOf,
  DRIVER,
  dropAttachment,
  ID,
  node,
  NODES,
  NQN,
  putAttachment,
  PV,
  PVS,
} from "./fake_controller.ts";

const volume = { driver: DRIVER, handle: ID };

Deno.test("whyDangerous() trusts only a node that is there, Ready, in service, and does not list the volume", () => {
  const odd: NodeObject = { metadata: { name: "odd" } };
  const notReady = { metadata: { name: "n" }, status: { conditions: [{ type: "MemoryPressure", status: "True" }] } };
  const table: [NodeObject | undefined, string | undefined][] = [
    [undefined, "gone from Kubernetes"],
    [odd, "not Ready (it does not say)"],
    [{ ...odd, status: {} }, "not Ready (it does not say)"],
    [notReady, "not Ready (it does not say)"],
    [node("n", { ready: "False" }), "not Ready (False)"],
    [node("n", { ready: "Unknown" }), "not Ready (Unknown)"],
    [node("n", { outOfService: true }), "out-of-service"],
    [node("n", { inUse: ["other", ID] }), "volumesInUse"],
    [node("n", { inUse: [`${ID}0`, "other"] }), undefined],
    [node("n"), undefined],
  ];
  for (const [given, why] of table) {
    const said = whyDangerous(given, volume);
    if (why === undefined) assertEquals(said, undefined);
    else assertStringIncludes(said ?? "", why);
  }
});

Deno.test("atWork() takes claims for others at work, except where one that leaves had the only place", () => {
  const of = (nodeId: string, attached: boolean) => ({
    uid: nodeId,
    nodeId,
    attached,
    deleting: false,
    created: 0,
    seen: 0,
  });
  const names = (all: { nodeId: string }[]) => all.map(({ nodeId }) => nodeId).join();
  const all = [of("a", true), of("b", false)];
  assertEquals(names(atWork(all, ["a"], "single")), "");
  assertEquals(names(atWork(all, ["a"], "multi")), "b");
  assertEquals(names(atWork([of("a", false), of("b", false)], ["a"], "single")), "b");
  assertEquals(names(atWork([of("a", true), of("b", true)], ["a"], "single")), "b");
  assertEquals(names(atWork(all, ["a", "b"], "multi")), "");
});

const dangers: [string, (api: FakeApi) => void][] = [
  ["the node is gone", (api) => api.remove(NODES, "a")],
  ["not Ready", (api) => api.put(NODES, node("a", { ready: "Unknown" }))],
  ["out-of-service", (api) => api.put(NODES, node("a", { outOfService: true }))],
  ["volumesInUse", (api) => api.put(NODES, node("a", { inUse: [ID] }))],
];

for (const [why, begin] of dangers) {
  Deno.test(`detach() cuts a node off that may still write (${why}), once, and says so`, async () => {
    await holding(["a"], async (it, disk, again) => {
      begin(it.api);
      await it.detach("a");
      await it.detach("a");
      assertEquals([disk.asked, disk.generation], [[NQN, NQN], 1]);
      assertEquals(it.reasons, ["VolumeFenced", "VolumeDetached", "VolumeDetached"]);
      assertStringIncludes(it.messages, why);
      assertEquals(it.metrics.fences.counts, { done: 1 });
      dropAttachment(it.api, "a");
      putAttachment(it.api, "b");
      assertEquals(await again("b"), `${NQN}.g1`);
    });
  });
}

Deno.test("detach() cuts nobody off who has let go in good order", async () => {
  await holding(["a"], async (it, disk) => {
    it.api.put(NODES, node("a", { inUse: ["pvc-ffffffffffffffffffffffffffff"] }));
    await it.detach("a");
    assertEquals(disk.asked, []);
  });
});

Deno.test("detach() fails when the node cannot be cut off, or nobody can say how it is: the volume stays where it is", async () => {
  await holding(["a"], async (it, disk, again) => {
    it.api.remove(NODES, "a");
    disk.broken = true;
    await assertRejects(() => it.detach("a"), Unreachable, "RouterOS refuses");
    assertEquals(it.reasons, ["FenceFailed"]);
    assertEquals(it.metrics.fences.counts, { failed: 1 });
    assertEquals(it.metrics.detaches.counts, { failure: 1 });
    putAttachment(it.api, "b", { created: 9000 });
    await assertRejects(() => again("b"));
    it.kube.before = (_verb, path) => {
      if (path.startsWith(NODES)) throw new Unreachable("500");
    };
    await assertRejects(() => it.detach("a"), Unreachable, "500");
    assertEquals(disk.generation, 0);
  });
});

Deno.test("detach() with --fence=off lets a dangerous node go and says what is risked", async () => {
  await holding(["a"], async (it) => {
    it.api.remove(NODES, "a");
    await it.detach("a");
    assertEquals(it.reasons, ["FenceSkipped", "VolumeDetached"]);
    for (const part of ["--fence=off", "data is damaged", "Make sure that it is off"]) {
      assertStringIncludes(it.messages, part);
    }
    assertEquals(it.metrics.fences.counts, { off: 1 });
    assertEquals(annotationsOf(it.api)["fence-owed"], undefined);
  }, { off: true });
});

Deno.test("detach() cuts nobody off while another is at work, owes it on the PV, and makes up for it when that one leaves", async () => {
  await holding(["a", "b"], async (it, disk) => {
    it.api.put(NODES, node("a", { ready: "False" }));
    await it.detach("a");
    assertEquals([disk.asked, annotationsOf(it.api)["fence-owed"]], [[], NQN]);
    assertEquals(it.reasons, ["FenceSkipped", "VolumeDetached"]);
    assertStringIncludes(it.messages, "while b uses it");
    dropAttachment(it.api, "a");
    it.api.put(NODES, node("a"));
    disk.broken = true;
    await assertRejects(() => it.detach("b"), Unreachable);
    assertEquals(annotationsOf(it.api)["fence-owed"], NQN);
    disk.broken = false;
    await it.detach("b");
    assertEquals([disk.generation, annotationsOf(it.api)["fence-owed"]], [1, undefined]);
  });
});

Deno.test("attach() makes up for an owed fence before a lonely node gets the volume, and not while it cannot", async () => {
  await holding([], async (it, disk, again) => {
    it.api.change(PVS, PV, ({ metadata }) => metadata.annotations = { "rds.csi.srvlab.io/fence-owed": NQN });
    putAttachment(it.api, "b");
    disk.broken = true;
    await assertRejects(() => again("b"), Unreachable);
    assertEquals(it.granted, []);
    disk.broken = false;
    assertEquals(await again("b"), `${NQN}.g1`);
    assertEquals(annotationsOf(it.api)["fence-owed"], undefined);
  }, { mode: "multi" });
});

Deno.test("detach() of all cuts off once for all of them that are dangerous", async () => {
  await holding(["a", "b"], async (it, disk) => {
    it.api.remove(NODES, "a");
    it.api.remove(NODES, "b");
    await it.detach(undefined);
    assertEquals(disk.generation, 1);
  });
});
