/**
 * Histories in which the attachments are wrong today. Each fails until its defect is mended; then it belongs beside the
 * others in release_test.ts.
 * @module
 */
import { assertEquals, assertRejects } from "@std/assert";
import { Unreachable } from "../runtime/errors.ts";
import { type Rules, World } from "./model_world.ts";
import { holding } from "./fake_export.ts";
import { annotationsOf, dropAttachment, node, NODES, NQN, putAttachment, PV, PVS } from "./fake_controller.ts";

Deno.test("DEFECT: attach() again for a node that has the volume must not cut it off for a fence owed to another", async () => {
  await holding(["a", "b"], async (it, disk, again) => {
    it.api.put(NODES, node("a", { ready: "Unknown" }));
    await it.detach("a");
    dropAttachment(it.api, "a");
    // The attacher compares with ListVolumes every minute and publishes again where it sees a difference.
    await again("b");
    assertEquals(disk.nqn, NQN, "b, which works with the volume, was cut off");
  });
});

Deno.test("DEFECT: a node that asked for the volume in vain and leaves owes no fence", async () => {
  await holding(["a", "b"], async (it) => {
    putAttachment(it.api, "c", { created: 9000 });
    it.api.put(NODES, node("c", { ready: "Unknown" }));
    await it.detach("c");
    assertEquals(annotationsOf(it.api)["fence-owed"], undefined, "c never had it, and b or a will be cut off for it");
  });
});

Deno.test("DEFECT: a fence that was begun and not answered is made up for by the next detach, though the node is well again", async () => {
  await holding(["a"], async (it, disk) => {
    it.api.put(NODES, node("a", { ready: "Unknown" }));
    disk.broken = true; // RouterOS got it, and may do it later.
    await assertRejects(() => it.detach("a"), Unreachable);
    disk.broken = false;
    it.api.put(NODES, node("a"));
    await it.detach("a");
    assertEquals(disk.generation, 1, "the late fence would cut off the next node, which is told the old NQN");
  });
});

Deno.test("DEFECT: making up for one fence leaves the note of another that came in between", async () => {
  await holding(["b"], async (it, disk) => {
    const owed = (nqn: string) =>
      it.api.change(PVS, PV, ({ metadata }) => metadata.annotations = { "rds.csi.srvlab.io/fence-owed": nqn });
    owed(NQN);
    let first = true;
    it.kube.before = (verb, path) => {
      // Another replica lets a node go that has the new NQN, after this one's fence and before it takes its note away.
      if (!first || disk.generation !== 1 || verb !== "GET" || !path.startsWith(PVS)) return;
      first = false;
      owed(`${NQN}.g1`);
    };
    await it.detach("b");
    assertEquals(annotationsOf(it.api)["fence-owed"], `${NQN}.g1`, "a node that may still write was forgotten");
  }, { mode: "multi" });
});

Deno.test("DEFECT: attach() takes no attachment that its watch still shows for the new one of the same node", async () => {
  await holding(["b"], async (it, _disk, again) => {
    it.kube.hold();
    dropAttachment(it.api, "b"); // Detached by the other replica,
    putAttachment(it.api, "a", { nqn: NQN, created: 5000 }); // which then gave it to a.
    putAttachment(it.api, "b", { uid: "new", created: 6000 });
    // This replica has seen none of it yet, and is asked by its attacher, whose watch is another one.
    await assertRejects(() => again("b"), Error, "", "b was granted a volume that a has");
  }, { mode: "single" });
});

Deno.test("DEFECT: detach() goes by the NQN that the node has, not by one that its watch still shows", async () => {
  await holding(["a"], async (it, disk) => {
    it.kube.hold();
    disk.generation = 1;
    putAttachment(it.api, "a", { uid: "new", nqn: `${NQN}.g1`, created: 5000 }); // Came back, by way of the other replica.
    it.api.remove(NODES, "a");
    await it.detach("a");
    assertEquals(disk.generation, 2, "a can still write");
  });
});

Deno.test("DEFECT: attach() that ends alone and did not begin alone makes up for an owed fence too", async () => {
  await holding(["a"], async (it, disk) => {
    putAttachment(it.api, "b", { created: 5000 });
    it.api.remove(NODES, "a");
    await it.detach("a"); // Owed, because b may have been granted it.
    assertEquals(annotationsOf(it.api)["fence-owed"], NQN);
    const prepare = async () => {
      dropAttachment(it.api, "a"); // The attacher takes its finalizer away while RouterOS answers.
      await it.clock.idle();
      return disk.nqn;
    };
    const told = await it.attach("b", { mode: "multi", prepare }).catch(() => "later");
    assertEquals(told === "later" || disk.generation === 1, true, "b works with it alone, and a may still write");
  }, { mode: "multi" });
});

Deno.test("DEFECT: a random history ends with two holders, because a view still shows an older attachment of the node", () => {
  const asItIs: Rules = {
    patchesByName: false,
    checksUid: false,
    cutsAtGrantOnly: false,
    clearsItsOwn: false,
    owesFirst: false,
    readsLeaver: false,
    claimsLeaveFreely: false,
  };
  const wrong: string[] = [];
  const world = new World(1112633214, asItIs, (what) => wrong.push(what));
  for (let step = 0; step < 200; step++) world.step();
  assertEquals(wrong, []);
});
