import { assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { Unreachable } from "../runtime/errors.ts";
import { atWork, type NodeObject, whyDangerous } from "./danger.ts";
import { FakeApi } from "./fake_api.ts";
import { FakeClock } from "./fake_clock.ts";
import {
  annotationsOf,
  DRIVER,
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

/** A fence that counts generations up, and remembers what it was asked. */
class FakeExport {
  generation = 0;
  readonly asked: (string | undefined)[] = [];
  broken = false;

  get nqn(): string {
    return this.generation === 0 ? NQN : `${NQN}.g${this.generation}`;
  }

  /** As volumes/fence.ts: nothing to do where the node's generation is over. */
  readonly fence = (_id: string, held: string | undefined) => {
    this.asked.push(held);
    if (this.broken) return Promise.reject(new Unreachable("RouterOS refuses"));
    const generation = held === undefined ? this.generation : Number(held.split(".g")[1] ?? 0);
    if (generation < this.generation) return Promise.resolve(undefined);
    const from = this.nqn;
    this.generation++;
    return Promise.resolve({ from, to: this.nqn });
  };
}

/** A volume with these nodes, which have it with the NQN of now. */
async function holding(
  nodes: string[],
  work: (it: FakeController, disk: FakeExport, again: (nodeId: string) => Promise<string>) => Promise<void>,
  more: { mode?: "single" | "multi"; off?: boolean } = {},
): Promise<void> {
  using clock = new FakeClock();
  const [api, disk] = [new FakeApi(), new FakeExport()];
  const { mode = nodes.length > 1 ? "multi" : "single" } = more;
  api.put(PVS, pv(PV, { modes: [mode === "multi" ? "ReadWriteMany" : "ReadWriteOnce"] }));
  for (const name of ["a", "b", "c"]) api.put(NODES, node(name));
  for (const [index, name] of nodes.entries()) putAttachment(api, name, { nqn: NQN, created: 1000 * index });
  const it = await new FakeController(api, clock, { fence: more.off ? undefined : disk.fence }).start();
  const again = (nodeId: string) => it.attach(nodeId, { mode, prepare: () => Promise.resolve(disk.nqn) });
  await work(it, disk, again);
  await it.stop();
}

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
    const { fence } = disk;
    let first = true;
    it.kube.after = (verb, path) => {
      if (!first || disk.generation !== 1 || verb !== "GET" || !path.startsWith(PVS)) return;
      first = false;
    };
    Object.assign(disk, { fence });
    const before = it.kube.before;
    it.kube.before = (verb, path) => {
      // Another replica lets a node go that has the new NQN, after this one's fence and before it takes its note away.
      if (first && disk.generation === 1 && verb === "GET" && path.startsWith(PVS)) owed(`${NQN}.g1`), first = false;
      return before(verb, path);
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
