import { assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { Busy, Unreachable } from "../runtime/errors.ts";
import type { FakeApi } from "./fake_api.ts";
import { holding, owe } from "./fake_export.ts";
import { annotationsOf, dropAttachment, ID, node, NODES, NQN, putAttachment, PVS } from "./fake_controller.ts";

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

Deno.test("detach() of all cuts off once for all of them that are dangerous", async () => {
  await holding(["a", "b"], async (it, disk) => {
    it.api.remove(NODES, "a");
    it.api.remove(NODES, "b");
    await it.detach(undefined);
    assertEquals(disk.generation, 1);
  });
});

Deno.test("detach() of a node that asked for the volume in vain owes no fence: it was never told where it is", async () => {
  await holding(["a", "b"], async (it, disk) => {
    putAttachment(it.api, "c", { created: 9000 });
    it.api.put(NODES, node("c", { ready: "Unknown" }));
    await it.detach("c");
    assertEquals([annotationsOf(it.api)["fence-owed"], disk.asked], [undefined, []]);
  });
});

Deno.test("detach() makes up for a fence that was begun and not answered, though the node is well again", async () => {
  await holding(["a"], async (it, disk) => {
    it.api.put(NODES, node("a", { ready: "Unknown" }));
    disk.broken = true; // RouterOS got it, and may do it later: the next node would be told an NQN that ends then.
    await assertRejects(() => it.detach("a"), Unreachable);
    disk.broken = false;
    it.api.put(NODES, node("a"));
    await it.detach("a");
    assertEquals([disk.generation, annotationsOf(it.api)["fence-owed"]], [1, undefined]);
  });
});

Deno.test("detach() that makes up for one fence leaves the note of another that came in between", async () => {
  await holding(["b"], async (it, disk) => {
    owe(it.api, NQN);
    let first = true;
    it.kube.before = (verb, path) => {
      // Another replica lets a node go that has the new NQN, after this one's fence and before it takes its note away.
      if (!first || disk.generation !== 1 || verb !== "GET" || !path.startsWith(PVS)) return;
      first = false;
      owe(it.api, `${NQN}.g1`);
    };
    await it.detach("b");
    assertEquals(annotationsOf(it.api)["fence-owed"], `${NQN}.g1`, "a node that may still write was forgotten");
  }, { mode: "multi" });
});

Deno.test("detach() goes by the NQN that the node has, not by one that its watch still shows", async () => {
  await holding(["a"], async (it, disk) => {
    it.kube.hold();
    disk.generation = 1;
    putAttachment(it.api, "a", { uid: "new", nqn: `${NQN}.g1`, created: 5000 }); // Came back, by way of the other replica.
    it.api.remove(NODES, "a");
    await it.detach("a");
    assertEquals(disk.generation, 2, "a can still write");
  });
});

Deno.test("detach() cuts nobody off who came while it wrote its note: that one may have been given the volume already", async () => {
  await holding(["a"], async (it, disk) => {
    it.api.put(NODES, node("a", { inUse: [ID] }));
    it.kube.before = (verb) => {
      if (verb === "PATCH") putAttachment(it.api, "b", { created: 5000 });
    };
    await it.detach("a");
    assertEquals([disk.generation, annotationsOf(it.api)["fence-owed"]], [0, NQN]);
    assertStringIncludes(it.messages, "while b uses it");
  }, { mode: "multi" });
});

Deno.test("detach() of two nodes with different NQNs owes a fence for any: the next generation, whatever is exported", async () => {
  await holding(["c"], async (it, disk) => {
    owe(it.api, `${NQN}.g1`); // A backup of RouterOS was played back since.
    putAttachment(it.api, "a", { nqn: NQN, created: 5000 });
    it.api.remove(NODES, "a");
    await it.detach("a");
    assertEquals([annotationsOf(it.api)["fence-owed"], disk.asked], ["any", []]);
    dropAttachment(it.api, "a");
    await it.detach("c");
    assertEquals([annotationsOf(it.api)["fence-owed"], disk.asked, disk.generation], [undefined, [undefined], 1]);
  }, { mode: "multi" });
});

Deno.test("detach() that is late cuts off nobody who has been given the volume anew since", async () => {
  await holding(["a"], async (it, disk) => {
    it.api.put(NODES, node("a", { inUse: [ID] })); // Rightly: nobody deletes its attachment.
    const { signal } = it;
    await assertRejects(() => it.clock.until(it.attachments.detach(ID, "a", signal)), Busy, "stays with a");
    assertEquals([disk.asked, annotationsOf(it.api)], [[], {}]);
  });
});
