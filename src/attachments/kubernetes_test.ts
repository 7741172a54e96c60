import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { Forbidden } from "../kube/errors.ts";
import { Busy, Cancelled, FailedPrecondition, NotFound, Unreachable } from "../runtime/errors.ts";
import { SETTLED } from "./decide.ts";
import { FakeApi, type FakeKube } from "./fake_api.ts";
import { FakeClock } from "./fake_clock.ts";
import {
  annotationsOf,
  ATTACHMENTS,
  dropAttachment,
  FakeController,
  ID,
  node,
  NODES,
  NQN,
  putAttachment,
  PV,
  pv,
  PVS,
} from "./fake_controller.ts";

/** A controller on a cluster with the nodes a to d and one PV. */
async function cluster(
  work: (it: FakeController & { api: FakeApi }, clock: FakeClock) => Promise<void>,
  options: ConstructorParameters<typeof FakeController>[2] & { modes?: string[]; before?: (api: FakeApi) => void } = {},
): Promise<void> {
  using clock = new FakeClock();
  const api = new FakeApi();
  for (const name of ["a", "b", "c", "d"]) api.put(NODES, node(name));
  api.put(PVS, pv(PV, { modes: options.modes ?? ["ReadWriteOnce"] }));
  options.before?.(api);
  const it = await new FakeController(api, clock, options).start();
  try {
    await work(it, clock);
  } finally {
    await it.stop();
  }
  assertEquals(clock.waiting, 0, "timers are left over");
}

function refuse(kube: FakeKube, what: string, error: () => Error, times = Infinity): void {
  let left = times;
  kube.before = (verb, path) => {
    if (`${verb} ${path}`.startsWith(what) && left-- > 0) throw error();
  };
}

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
    assertEquals(it.attachments.askers(ID), ["a", "b"]);
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
    await clock.advance(4000);
    putAttachment(it.api, "a");
    assertEquals(await clock.until(early), "x");
    const began = clock.now;
    await assertRejects(() => it.attach("b"), Busy, "not seen yet");
    assertEquals(clock.now - began, 5000);
  });
});

Deno.test("attach() ends with the caller, and grants nothing then", async () => {
  await cluster(async (it, clock) => {
    const caller = new AbortController();
    const waiting = it.attachments.attach(ID, { nodeId: "a", mode: "single" }, () => Promise.resolve(1), caller.signal);
    await clock.advance(1000);
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

Deno.test("attach() fails and grants nothing when the PV cannot be annotated; conflicts are tried again, five times", async () => {
  for (const error of [() => new Unreachable("500"), () => new Forbidden("403")]) {
    await cluster(async (it) => {
      putAttachment(it.api, "a");
      refuse(it.kube, `PATCH ${PVS}`, error);
      await assertRejects(() => it.attach("a"));
      assertEquals([it.granted, it.reasons], [[], []]);
    });
  }
  await cluster(async (it) => {
    putAttachment(it.api, "a");
    let quarrels = 4;
    it.kube.before = (verb) => {
      if (verb === "PATCH" && quarrels-- > 0) it.api.change(PVS, PV, ({ metadata }) => metadata.labels = { n: "1" });
    };
    await it.attach("a");
    assertEquals(annotationsOf(it.api)["attached-node"], "a");
    putAttachment(it.api, "a", { created: 7000 });
    quarrels = 5;
    await assertRejects(() => it.attach("a"), Busy, "409");
    assertEquals(it.granted.length, 1);
  });
});

Deno.test("attach() overwrites what an older driver left on the PV, and a missing PV is fine: one node at a time", async () => {
  const stale = { "rds.csi.srvlab.io/attached-node": "z", "rds.csi.srvlab.io/attached-at": "then", other: "stays" };
  await cluster(async (it) => {
    putAttachment(it.api, "a");
    await it.attach("a");
    assertEquals(annotationsOf(it.api)["attached-node"], "a");
    assertEquals(annotationsOf(it.api)["other"], "stays");
  }, { before: (api) => api.change(PVS, PV, ({ metadata }) => metadata.annotations = stale) });
  await cluster(async (it) => {
    putAttachment(it.api, "a");
    await it.attach("a", { mode: "multi" });
    putAttachment(it.api, "a", { nqn: NQN, volumeId: ID });
    putAttachment(it.api, "b");
    await assertRejects(() => it.attach("b", { mode: "multi" }), FailedPrecondition, "attached to a");
    assertEquals(it.granted.length, 1);
  }, { before: (api) => api.remove(PVS, PV) });
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
    await assertRejects(() => it.detach("a"), Unreachable, "no sign for 90 s");
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
    await it.attach("b");
  });
});

Deno.test("detach() goes on when the annotations cannot be cleared", async () => {
  await cluster(async (it) => {
    putAttachment(it.api, "a");
    await it.attach("a");
    refuse(it.kube, `PATCH ${PVS}`, () => new Unreachable("500"));
    await it.detach("a");
    assertEquals(annotationsOf(it.api)["attached-node"], "a");
    assertEquals(it.reasons, ["VolumeAttached", "VolumeDetached"]);
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
