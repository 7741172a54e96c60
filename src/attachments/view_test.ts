import { assert, assertEquals, assertRejects } from "@std/assert";
import { Kube } from "../kube/client.ts";
import { Cancelled, Unreachable } from "../runtime/errors.ts";
import { ATTACHMENTS, FakeApi, PVS } from "./fake_api.ts";
import { FakeClock } from "./fake_clock.ts";
import {
  attachment,
  DRIVER,
  dropAttachment,
  FakeController,
  ID,
  NQN,
  putAttachment,
  PV,
  pv,
} from "./fake_controller.ts";
import { View } from "./view.ts";

/** A view of what `before` has put there. */
async function viewing(before: (api: FakeApi) => void, work: (it: FakeController) => Promise<void>): Promise<void> {
  using clock = new FakeClock();
  const api = new FakeApi();
  before(api);
  const it = await new FakeController(api, clock).start();
  await work(it);
  await it.stop();
  assertEquals(clock.waiting, 0, "timers are left over");
}

const nodesOf = (it: FakeController, id = ID) => it.view.of(id).map(({ nodeId }) => nodeId);

Deno.test("View files attachments as their PV says, else as their publish context does, else by the PV's name", async () => {
  await viewing((api) => {
    api.put(PVS, pv());
    api.put(PVS, pv("other", { handle: "pvc-ffffffffffffffffffffffffffff", modes: ["ReadWriteMany"] }));
    putAttachment(api, "a", { nqn: NQN });
    putAttachment(api, "b", { pv: "other" });
    putAttachment(api, "c", { pv: "gone", nqn: NQN, volumeId: ID, created: 5000 });
    putAttachment(api, "d", { pv: "pvc-11111111-2222-3333-4444-555555555555" });
    putAttachment(api, "e", { pv: "static" });
  }, (it) => {
    assertEquals(nodesOf(it), ["a", "c"]);
    assertEquals(nodesOf(it, "pvc-ffffffffffffffffffffffffffff"), ["b"]);
    assertEquals(nodesOf(it, "pvc-1111111122223333444455555555"), ["d"]);
    assertEquals(nodesOf(it, "static"), ["e"]);
    assertEquals(it.view.pv("pvc-ffffffffffffffffffffffffffff")?.mode, "multi");
    assertEquals(it.view.pv("static"), undefined);
    assertEquals([nodesOf(it, "unknown"), it.view.count()], [[], { attached: 2, claims: 3 }]);
    return Promise.resolve();
  });
});

Deno.test("View skips an attachment that names no PV, and one of another driver, and harms no other", async () => {
  await viewing((api) => {
    api.put(PVS, pv());
    const nameless = attachment("x");
    api.put(ATTACHMENTS, { ...nameless, spec: { attacher: DRIVER, nodeName: "x", source: {} } } as typeof nameless);
    api.put(
      ATTACHMENTS,
      { ...attachment("y"), spec: { ...attachment("y").spec, attacher: "another" } } as typeof nameless,
    );
    putAttachment(api, "a", { nqn: NQN });
  }, (it) => {
    assertEquals(nodesOf(it), ["a"]);
    assertEquals(it.view.count(), { attached: 1, claims: 0 });
    return Promise.resolve();
  });
});

Deno.test("View follows what comes, changes and goes; a new attachment of the same name is seen from then on", async () => {
  await viewing((api) => api.put(PVS, pv()), async (it) => {
    putAttachment(it.api, "a", { nqn: NQN });
    await it.clock.advance(1000);
    const [first] = it.view.of(ID);
    dropAttachment(it.api, "a");
    putAttachment(it.api, "a", { uid: "second" });
    await it.clock.advance(1000);
    const [second] = it.view.of(ID);
    assertEquals([first?.attached, first?.seen, second?.attached, second?.seen, second?.uid], [
      true,
      0,
      false,
      1000,
      "second",
    ]);
  });
});

Deno.test("View replaces everything after 410 Gone, and keeps since when it has known what is still there", async () => {
  await viewing((api) => {
    api.put(PVS, pv());
    putAttachment(api, "a", { nqn: NQN });
    putAttachment(api, "b", { created: 1000 });
  }, async (it) => {
    it.kube.hold();
    dropAttachment(it.api, "a");
    putAttachment(it.api, "c", { created: 2000 });
    it.api.compact();
    await it.clock.advance(5000);
    assertEquals(nodesOf(it), ["a", "b"]);
    it.kube.cut();
    await it.clock.advance(5000);
    assertEquals(nodesOf(it), ["b", "c"]);
    assert((it.view.of(ID)[0]?.seen ?? 1) === 0 && (it.view.of(ID)[1]?.seen ?? 0) > 5000);
  });
});

Deno.test("View.resolve() looks up the PV that an attachment names and the watch has not shown, and takes no failure for its absence", async () => {
  await viewing(() => {}, async (it) => {
    const { signal } = it;
    it.kube.hold();
    it.api.put(PVS, pv("static", { modes: ["ReadWriteMany"] }));
    putAttachment(it.api, "a", { pv: "static", nqn: NQN });
    it.kube.resume(0);
    it.kube.shown = Infinity;
    it.api.log.splice(it.api.log.findIndex(({ list }) => list === PVS), 1); // The watch of PVs is behind.
    it.kube.wake();
    await it.clock.idle();
    assertEquals(nodesOf(it), []);
    it.kube.before = () => {
      throw new Unreachable("500");
    };
    await assertRejects(() => it.clock.until(it.view.resolve(signal)), Unreachable, "500");
    it.kube.before = () => {};
    await it.clock.until(it.view.resolve(signal));
    assertEquals([nodesOf(it), it.view.pv(ID)?.mode], [["a"], "multi"]);
  });
});

Deno.test("View.current() lists at that moment; those who ask while a list is under way share the next one, and a failed one fails nobody else", async () => {
  await viewing((api) => {
    api.put(PVS, pv());
    putAttachment(api, "a", { nqn: NQN });
  }, async (it) => {
    const lists: PromiseWithResolvers<void>[] = [];
    it.kube.after = async (verb) => {
      if (verb === "LIST") await lists[lists.push(Promise.withResolvers<void>()) - 1]?.promise;
    };
    const ask = async () => (await it.view.current(ID, it.signal)).map(({ nodeId }) => nodeId);
    const first = ask();
    await it.clock.idle();
    putAttachment(it.api, "b", { created: 1000 });
    const [second, third] = [assertRejects(ask, Unreachable, "500"), assertRejects(ask, Unreachable, "500")];
    await it.clock.idle();
    assertEquals(lists.length, 1);
    lists[0]?.resolve();
    assertEquals(await first, ["a"], "what came after the list had begun cannot be in it");
    await it.clock.idle();
    const fourth = ask();
    await it.clock.idle();
    assertEquals(lists.length, 2);
    lists[1]?.reject(new Unreachable("500"));
    await Promise.all([second, third]);
    await it.clock.idle();
    assertEquals(lists.length, 3);
    lists[2]?.resolve();
    assertEquals(await fourth, ["a", "b"]);
  });
});

Deno.test("View.current() knows the volume of an attachment whose PV the watch has not shown, and ends with the caller", async () => {
  await viewing(() => {}, async (it) => {
    it.kube.hold();
    it.api.put(PVS, pv());
    putAttachment(it.api, "a", { nqn: NQN });
    const all = await it.clock.until(it.view.current(ID, it.signal));
    assertEquals(all.map(({ nodeId }) => nodeId), ["a"]);
    const caller = new AbortController();
    it.kube.after = () => new Promise(() => {});
    const waiting = assertRejects(() => it.view.current(ID, caller.signal), Cancelled);
    await it.clock.idle();
    caller.abort();
    await waiting;
  });
});

Deno.test("View knows PVs and attachments that came between the two lists of its start, and asks for none alone, not for one that is gone either", async () => {
  using clock = new FakeClock();
  const api = new FakeApi();
  putAttachment(api, "a", { nqn: NQN });
  putAttachment(api, "c", { pv: "gone" });
  const it = new FakeController(api, clock);
  it.kube.before = (verb, path) => {
    if (verb !== "LIST" || path !== PVS) return;
    api.put(PVS, pv(PV, { modes: ["ReadWriteMany"] }));
    putAttachment(api, "b", { created: 1000 });
    it.kube.wake();
  };
  await it.start();
  assertEquals([nodesOf(it), it.view.pv(ID)?.mode], [["a", "b"], "multi"]);
  await clock.until(it.view.resolve(it.signal));
  assertEquals(it.kube.asked.filter((asked) => asked.startsWith("GET")), []);
  await it.stop();
});

Deno.test("View finds 10,000 attachments and the modes of their PVs by pages of lists, and asks for no PV alone", async () => {
  using clock = new FakeClock();
  const api = new FakeApi();
  const stop = new AbortController();
  const asked: string[] = [];
  for (let i = 0; i < 10_000; i++) {
    const handle = `pvc-${String(i).padStart(28, "0")}`;
    api.put(PVS, pv(`pv-${i}`, { handle, modes: i % 2 ? ["ReadWriteMany"] : ["ReadWriteOnce"] }));
    putAttachment(api, `n${i % 50}`, { pv: `pv-${i}`, nqn: NQN });
  }
  const fetch = (url: string, { signal }: RequestInit): Promise<Response> => {
    const { pathname, searchParams } = new URL(url);
    if (searchParams.has("watch")) {
      return new Promise((_, reject) => signal?.addEventListener("abort", () => reject(signal.reason)));
    }
    asked.push(pathname);
    const all = api.all(pathname);
    const from = Number(searchParams.get("continue") ?? 0);
    const to = from + Number(searchParams.get("limit"));
    const metadata = { resourceVersion: "9", ...(to < all.length ? { continue: String(to) } : {}) };
    return Promise.resolve(Response.json({ metadata, items: all.slice(from, to) }));
  };
  const headers = () => Promise.resolve({});
  const kube = new Kube({ server: "http://api", namespace: "x", headers, fetch, deadline: 30_000 });
  const view = new View({ kube, driver: DRIVER, keyOf: (id) => id, now: () => clock.now });
  await clock.until(view.start(stop.signal, stop.signal));
  assertEquals(view.count(), { attached: 10_000, claims: 0 });
  assertEquals(asked.length, 40);
  for (const i of [0, 1, 9999]) {
    const id = `pvc-${String(i).padStart(28, "0")}`;
    assertEquals([view.of(id).length, view.pv(id)?.mode], [1, i % 2 ? "multi" : "single"]);
  }
  await clock.until(view.resolve(stop.signal));
  assertEquals(asked.length, 40);
  stop.abort();
  await clock.until(view.ended());
});
