/**
 * What is owed to a volume when a node asks for it: `Release.beforeGrant()`, as `attach()` uses it.
 * @module
 */
import { assertEquals, assertRejects } from "@std/assert";
import { Busy, Unreachable } from "../runtime/errors.ts";
import { annotationsOf, dropAttachment, node, NODES, NQN, putAttachment } from "./fake_controller.ts";
import { holding, owe } from "./fake_export.ts";

Deno.test("attach() makes up for an owed fence before a lonely node gets the volume, and not while it cannot", async () => {
  await holding([], async (it, disk, again) => {
    owe(it.api, NQN);
    putAttachment(it.api, "b");
    disk.broken = true;
    await assertRejects(() => again("b"), Unreachable);
    assertEquals(it.granted, []);
    disk.broken = false;
    assertEquals(await again("b"), `${NQN}.g1`);
    assertEquals(annotationsOf(it.api)["fence-owed"], undefined);
  }, { mode: "multi" });
});

Deno.test("attach() again for a node that has the volume cuts it off for no fence that is owed to another", async () => {
  await holding(["a", "b"], async (it, disk, again) => {
    it.api.put(NODES, node("a", { ready: "Unknown" }));
    await it.detach("a");
    dropAttachment(it.api, "a");
    // The attacher compares with ListVolumes every minute and publishes again where it sees a difference.
    assertEquals(await again("b"), NQN);
    assertEquals([disk.nqn, annotationsOf(it.api)["fence-owed"]], [NQN, NQN]);
  });
});

Deno.test("attach() for a node that its watch does not show to have the volume yet does not cut it off either", async () => {
  await holding([], async (it, disk, again) => {
    putAttachment(it.api, "b", { created: 5000 });
    await it.clock.idle();
    it.kube.hold();
    putAttachment(it.api, "b", { created: 5000, nqn: NQN });
    owe(it.api, NQN);
    assertEquals(await again("b"), NQN);
    assertEquals([disk.nqn, annotationsOf(it.api)["fence-owed"]], [NQN, NQN]);
  }, { mode: "multi" });
});

Deno.test("attach() that ends alone and did not begin alone is sent away: what those who left owe is made up for first", async () => {
  await holding(["a"], async (it, disk, again) => {
    putAttachment(it.api, "b", { created: 5000 });
    const prepare = async () => {
      it.kube.before = () => {};
      it.api.remove(NODES, "a");
      owe(it.api, NQN); // The other replica lets a go, while b may have been granted it,
      dropAttachment(it.api, "a"); // and the attacher takes its finalizer away while RouterOS answers.
      await it.clock.idle();
      return disk.nqn;
    };
    await assertRejects(() => it.attach("b", { mode: "multi", prepare }), Busy, "just let go");
    assertEquals(it.granted, []);
    assertEquals(await again("b"), `${NQN}.g1`);
  }, { mode: "multi" });
});

Deno.test("attach() gives nobody a second place while a fence is owed and another leaves: it may be cut off with that one", async () => {
  await holding([], async (it, disk, again) => {
    putAttachment(it.api, "a", { nqn: NQN, deleting: true });
    putAttachment(it.api, "b", { created: 5000 });
    owe(it.api, NQN);
    await assertRejects(() => again("b"), Busy, "a leaves, and may have to be cut off first");
    assertEquals([disk.asked, it.granted], [[], []]);
    dropAttachment(it.api, "a");
    assertEquals(await again("b"), `${NQN}.g1`);
  }, { mode: "multi" });
});

Deno.test("attach() of several while a fence is owed and nobody has the volume: the oldest makes up for it, the others wait for that", async () => {
  await holding([], async (it, disk, again) => {
    putAttachment(it.api, "a", { created: 5000, uid: "9" });
    await it.clock.advance(100);
    putAttachment(it.api, "b", { created: 5000, uid: "1" }); // Of one second: the UID counts, as in decide(), not who was seen first.
    owe(it.api, NQN);
    await assertRejects(() => again("a"), Busy, "b asked earlier");
    assertEquals(await again("b"), `${NQN}.g1`);
    assertEquals([disk.asked, annotationsOf(it.api)["fence-owed"]], [[NQN], undefined]);
    putAttachment(it.api, "b", { created: 5000, uid: "1", nqn: disk.nqn });
    assertEquals(await again("a"), `${NQN}.g1`);
  }, { mode: "multi" });
});

Deno.test("attach() of a second node leaves what is owed for later: the first is at work and would be cut off too", async () => {
  await holding(["a"], async (it, disk, again) => {
    putAttachment(it.api, "b", { created: 5000 });
    owe(it.api, NQN);
    assertEquals(await again("b"), NQN);
    assertEquals([disk.asked, annotationsOf(it.api)["fence-owed"]], [[], NQN]);
  }, { mode: "multi" });
});
