import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { Busy, Cancelled, FailedPrecondition, NotFound, Unreachable } from "../runtime/errors.ts";
import { SETTLED } from "./decide.ts";
import type { NodeObject } from "./danger.ts";
import type { FakeApi } from "./fake_api.ts";
import {
  annotationsOf,
  ATTACHMENTS,
  cluster,
  dropAttachment,
  ID,
  node,
  NODES,
  NQN,
  putAttachment,
  PV,
  refuse,
} from "./fake_controller.ts";

Deno.test("attach() gives a volume that nobody else asks for, shows it, tells it, and says the same when asked again", async () => {
  await cluster(async (it) => {
    putAttachment(it.api, "a", { created: 5000 });
    assertEquals(await it.attach("a"), NQN);
    assertEquals(annotationsOf(it.api), { "attached-node": "a", "attached-at": "1970-01-01T00:00:05.000Z" });
    assertEquals(it.reasons, ["VolumeAttached"]);
    assertEquals(it.granted, [`uid-${PV}-a`]);
    assertEquals(it.told[0]?.about, {
      apiVersion: "v1",
      kind: "PersistentVolumeClaim",
      namespace: "team",
      name: "data",
      uid: "claim-uid",
    });
    putAttachment(it.api, "a", { created: 5000, nqn: NQN });
    await it.clock.idle();
    assertEquals(it.attachments.holders(ID), ["a"]);
    const patches = it.kube.asked.filter((asked) => asked.startsWith("PATCH")).length;
    assertEquals(await it.attach("a"), NQN);
    assertEquals(it.reasons, ["VolumeAttached"]);
    assertEquals(it.kube.asked.filter((asked) => asked.startsWith("PATCH")).length, patches);
    assertEquals(it.metrics.attaches.counts, { success: 2 });
  });
});

Deno.test("attach() refuses a second node while the first holds the volume: who has it, what to do, counted, told on the claim", async () => {
  await cluster(async (it) => {
    putAttachment(it.api, "a", { nqn: NQN });
    putAttachment(it.api, "b");
    for (const part of [ID, "refused to b", "attached to a", "end the pods there"]) {
      await assertRejects(() => it.attach("b"), FailedPrecondition, part);
    }
    assertEquals(new Set(it.reasons), new Set(["AttachmentConflict"]));
    assertEquals(it.metrics.conflicts.counts, { "": 4 });
    assertEquals(it.metrics.attaches.counts, { failure: 4 });
    assertEquals(annotationsOf(it.api), {});
    assertEquals(it.attachments.holders(ID), ["a"]);
    assertEquals(await it.attachments.askers(ID, it.signal), ["a", "b"]);
  });
});

Deno.test("attach() takes the two oldest of a ReadWriteMany volume, shows both nodes, and refuses a third", async () => {
  await cluster(async (it) => {
    putAttachment(it.api, "b", { nqn: NQN, created: 1000 });
    putAttachment(it.api, "a", { created: 2000 });
    await it.attach("a", { mode: "multi" });
    assertEquals(annotationsOf(it.api)["attached-node"], "b,a");
    putAttachment(it.api, "a", { nqn: NQN, created: 2000 });
    putAttachment(it.api, "c", { created: 3000 });
    await assertRejects(() => it.attach("c", { mode: "multi" }), FailedPrecondition, "two nodes at once");
    assertEquals(it.attachments.holders(ID), ["b", "a"]);
  }, { modes: ["ReadWriteMany"] });
});

Deno.test("attach() takes a volume for ReadWriteOnce whose PV does not say ReadWriteMany, whatever the request says", async () => {
  await cluster(async (it) => {
    putAttachment(it.api, "a", { nqn: NQN });
    putAttachment(it.api, "b");
    await assertRejects(() => it.attach("b", { mode: "multi" }), FailedPrecondition, "one node at a time");
  });
  await cluster(async (it) => {
    putAttachment(it.api, "a", { nqn: NQN });
    putAttachment(it.api, "b");
    await it.attach("b", { mode: "multi" });
    await assertRejects(() => it.attach("b", { mode: "single" }), FailedPrecondition);
  }, { modes: ["ReadOnlyMany", "ReadWriteOnce", "ReadWriteMany"] });
});

Deno.test("attach() knows no node that Kubernetes does not have, and reads no failure as its absence", async () => {
  await cluster(async (it) => {
    putAttachment(it.api, "x");
    await assertRejects(() => it.attach("x"), NotFound, "no node 'x'");
    refuse(it.kube, "GET /api/v1/nodes", () => new Unreachable("away"));
    await assertRejects(() => it.attach("a"), Unreachable, "away");
  });
});

Deno.test("attach() waits a little for its own attachment to be seen, then sends the request away", async () => {
  await cluster(async (it, clock) => {
    const early = it.attachments.attach(ID, { nodeId: "a", mode: "single" }, () => Promise.resolve("x"), it.signal);
    await clock.advance(900);
    putAttachment(it.api, "a");
    assertEquals(await clock.until(early), "x");
    const began = clock.now;
    await assertRejects(() => it.attach("b"), Busy, "not seen yet");
    assertEquals(clock.now - began, 1000);
  });
});

Deno.test("attach() ends with the caller, and grants nothing then", async () => {
  await cluster(async (it, clock) => {
    const caller = new AbortController();
    const waiting = it.attachments.attach(ID, { nodeId: "a", mode: "single" }, () => Promise.resolve(1), caller.signal);
    await clock.advance(500);
    caller.abort();
    await assertRejects(() => clock.until(waiting), Cancelled);
    assertEquals(it.granted, []);
  });
});

Deno.test("attach() leaves nothing when preparing fails, and says whether anybody else has or may have the volume", async () => {
  await cluster(async (it) => {
    putAttachment(it.api, "a");
    const broken = () => Promise.reject(new Unreachable("RouterOS is away"));
    await assertRejects(() => it.attach("a", { prepare: broken }), Unreachable, "RouterOS is away");
    assertEquals([annotationsOf(it.api), it.reasons, it.granted], [{}, [], []]);
    const alone: boolean[] = [];
    const prepare = (each: boolean) => Promise.resolve(String(alone.push(each)));
    await it.attach("a", { prepare });
    putAttachment(it.api, "b", { created: 9000 });
    await it.attach("a", { prepare, mode: "multi" });
    assertEquals(alone, [true, false]);
  }, { modes: ["ReadWriteMany"] });
});

Deno.test("attach() decides again after preparing: who came in between keeps a third node out", async () => {
  await cluster(async (it) => {
    putAttachment(it.api, "a");
    const prepare = async () => {
      putAttachment(it.api, "b", { created: 1000, nqn: NQN });
      await it.clock.idle();
      return "x";
    };
    await assertRejects(() => it.attach("a", { prepare }), FailedPrecondition, "attached to b");
    assertEquals(it.granted, []);
    assert(!("attached-node" in annotationsOf(it.api)), "the PV still shows the node that was refused");
  });
});

Deno.test("attach() of claims that were made almost at once waits until an earlier grant would have shown, then the oldest gets it", async () => {
  await cluster(async (it, clock) => {
    putAttachment(it.api, "a", { created: 1000 });
    putAttachment(it.api, "b", { created: 2000 });
    await assertRejects(() => it.attach("b"), FailedPrecondition, "a asked for it earlier");
    await assertRejects(() => it.attach("a"), Busy, "within 150 s");
    for (let waited = 0; waited < SETTLED; waited += 10_000) {
      it.kube.bookmark();
      await clock.advance(10_000);
    }
    await it.attach("a");
    await assertRejects(() => it.attach("b"), FailedPrecondition);
  });
});

Deno.test("attach() gives nothing beside others on the word of a watch that lives and is behind", async () => {
  await cluster(async (it, clock) => {
    putAttachment(it.api, "a", { created: 1000 });
    putAttachment(it.api, "b", { created: 2000 });
    await clock.idle();
    it.kube.hold();
    putAttachment(it.api, "b", { created: 2000, nqn: NQN }); // By the other replica; only bookmarks come through here.
    for (let waited = 0; waited < SETTLED; waited += 10_000) {
      it.kube.bookmark();
      await clock.advance(10_000);
    }
    await assertRejects(() => it.attach("a"), FailedPrecondition, "attached to b");
  });
});

Deno.test("attach() and detach() do nothing on the word of a watch that was silent for more than 90 s", async () => {
  await cluster(async (it, clock) => {
    putAttachment(it.api, "a");
    await clock.idle();
    it.kube.hold();
    it.kube.before = (verb) => {
      if (verb === "WATCH" || verb === "LIST") throw new Unreachable("away");
    };
    await clock.advance(90_000);
    await it.attach("a");
    await clock.advance(1);
    await assertRejects(() => it.attach("a"), Unreachable, "no sign for 90 s");
    const detached = it.attachments.detach(ID, "a", it.signal);
    await assertRejects(() => clock.until(detached), Unreachable, "no sign for 90 s");
    assertEquals(it.granted.length, 1);
    it.kube.before = () => {};
    it.kube.resume();
    await clock.advance(40_000);
    it.kube.bookmark();
    await it.attach("a");
  });
});

Deno.test("detach() of unknown nodes and volumes is fine; the last one clears the annotations, others only their own", async () => {
  await cluster(async (it) => {
    await it.detach("nobody");
    await it.detach("a", "pvc-ffffffffffffffffffffffffffff");
    await it.detach(undefined);
    for (const [nodeId, created] of [["a", 1000], ["b", 2000]] as const) {
      putAttachment(it.api, nodeId, { created });
      await it.attach(nodeId, { mode: "multi" });
      putAttachment(it.api, nodeId, { created, nqn: NQN });
    }
    assertEquals(annotationsOf(it.api)["attached-node"], "a,b");
    await it.detach("a");
    assertEquals(annotationsOf(it.api), { "attached-node": "b", "attached-at": "1970-01-01T00:00:02.000Z" });
    dropAttachment(it.api, "a");
    await it.detach("b");
    assertEquals(annotationsOf(it.api), {});
  }, { modes: ["ReadWriteMany"] });
});

Deno.test("detach() frees nothing by itself: only when the attachment is gone or no longer attached may the next node have it", async () => {
  await cluster(async (it, clock) => {
    putAttachment(it.api, "a", { nqn: NQN });
    putAttachment(it.api, "b", { created: 1000 });
    await it.detach("a");
    await clock.advance(60_000);
    await assertRejects(() => it.attach("b"), FailedPrecondition, "attached to a");
    it.api.remove(NODES, "a");
    await assertRejects(() => it.attach("b"), FailedPrecondition, "attached to a");
    dropAttachment(it.api, "a");
    await clock.advance(1); // The watch tells it.
    await it.attach("b");
  });
});

Deno.test("detach() with no node lets all go", async () => {
  await cluster(async (it) => {
    putAttachment(it.api, "a", { nqn: NQN });
    putAttachment(it.api, "b", { nqn: NQN, created: 1000 });
    await it.detach(undefined);
    assertEquals(it.reasons, ["VolumeDetached", "VolumeDetached"]);
    assertStringIncludes(it.messages, "detached from a");
    assertStringIncludes(it.messages, "detached from b");
  }, { modes: ["ReadWriteMany"] });
});

Deno.test("attach() holds the machine's turn: told when the node has it, given back when it came to nothing", async () => {
  const turns: string[] = [];
  const machines = {
    enter: (volumeId: string, claim: { namespace: string; name: string }) => {
      turns.push(`${volumeId} ${claim.namespace}/${claim.name}`);
      return Promise.resolve({ attached: () => void turns.push("attached"), failed: () => void turns.push("failed") });
    },
  };
  await cluster(async (it) => {
    putAttachment(it.api, "a");
    await it.attach("a");
    await assertRejects(() => it.attach("a", { prepare: () => Promise.reject(new Error("no")) }));
    assertEquals(turns, [`${ID} team/data`, "attached", `${ID} team/data`, "failed"]);
    assertEquals(it.api.all(ATTACHMENTS).length, 1);
  }, { machines });
});

Deno.test("attach() takes no attachment that its watch still shows for the new one of the same node", async () => {
  await cluster(async (it) => {
    it.kube.hold();
    dropAttachment(it.api, "b"); // Detached by the other replica,
    putAttachment(it.api, "a", { nqn: NQN, created: 5000 }); // which then gave it to a.
    putAttachment(it.api, "b", { uid: "new", created: 6000 });
    // This replica has seen none of it yet, and is asked by its attacher, whose watch is another one.
    await assertRejects(() => it.attach("b"), Busy, "not seen yet");
    dropAttachment(it.api, "b");
    await assertRejects(() => it.attach("b"), Busy, "not seen yet");
    assertEquals(it.granted, []);
  }, { before: (api) => putAttachment(api, "b", { nqn: NQN }) });
});

const lost: [string, NodeObject | undefined][] = [
  ["gone from Kubernetes", undefined],
  ["not Ready", node("a", { ready: "Unknown" })],
  ["out-of-service", node("a", { outOfService: true })],
];

for (const [why, is] of lost) {
  Deno.test(`attach() gives a ReadWriteMany volume to no second node while the first one is ${why}, and does when it is well`, async () => {
    const before = (api: FakeApi) => {
      putAttachment(api, "a", { nqn: NQN });
      putAttachment(api, "b", { created: 5000 });
      is ? api.put(NODES, is) : api.remove(NODES, "a");
    };
    const modes = ["ReadWriteMany"];
    await cluster(async (it) => {
      for (const part of ["is attached to a", why, "kubectl taint node a"]) {
        await assertRejects(() => it.attach("b", { mode: "multi" }), FailedPrecondition, part);
      }
      assertEquals([it.granted, annotationsOf(it.api)], [[], {}]);
      it.api.put(NODES, node("a", { inUse: [ID] }));
      await it.attach("b", { mode: "multi" });
      assertEquals(it.granted.length, 1);
    }, { modes, before, fence: () => Promise.resolve(undefined) });
    // With --fence=off nobody is cut off anyway.
    await cluster(async (it) => void await it.attach("b", { mode: "multi" }), { modes, before });
  });
}
