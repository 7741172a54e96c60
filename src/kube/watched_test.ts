import { assertEquals, assertRejects } from "@std/assert";
import { poll } from "../runtime/deadline.ts";
import { Unreachable } from "../runtime/errors.ts";
import type { KubeObject, WatchEvent } from "./client.ts";
import { Gone } from "./errors.ts";
import { Watched, type WatchedOptions } from "./watched.ts";

type Step = (KubeObject | Error)[];

function named(name: string, more: Partial<KubeObject["metadata"]> = {}): KubeObject {
  return { metadata: { name, resourceVersion: "1", ...more } };
}

/** An API that lists and watches as told; a watch whose script is over stays silent until it is cut. */
class FakeKube {
  lists: { items: Step; version: string }[] = [];
  watches: (WatchEvent<KubeObject> | Error | "end")[][] = [];
  readonly versions: string[] = [];
  listed = 0;

  // deno-lint-ignore require-await -- stands in for a request
  async list<T extends KubeObject>(_path: string, each: (object: T) => void): Promise<string> {
    this.listed++;
    const next = this.lists.shift() ?? { items: [new Unreachable("away")], version: "" };
    for (const item of next.items) {
      if (item instanceof Error) throw item;
      each(item as T);
    }
    return next.version;
  }

  async *watch<T extends KubeObject>(_path: string, options: { resourceVersion: string; signal: AbortSignal }) {
    this.versions.push(options.resourceVersion);
    for (const step of this.watches.shift() ?? []) {
      if (step === "end") return;
      if (step instanceof Error) throw step;
      yield step as WatchEvent<T>;
    }
    await new Promise((_, reject) => {
      if (options.signal.aborted) reject(options.signal.reason);
      options.signal.addEventListener("abort", () => reject(options.signal.reason));
    });
  }
}

/** Watches until the end of the block. */
async function watching(kube: FakeKube, more: Partial<WatchedOptions<string>> = {}) {
  const stop = new AbortController();
  const changes: string[] = [];
  const watched = new Watched<string>({
    kube,
    path: "/things",
    keep: ({ metadata }) => metadata.labels?.["keep"] ?? metadata.name,
    changed: (name, now, before) => changes.push(`${name}: ${before ?? "-"} > ${now ?? "-"}`),
    random: () => 0,
    now: () => 0,
    ...more,
  });
  await watched.start(stop.signal, AbortSignal.timeout(5000));
  return {
    watched,
    changes,
    kept: () => [...watched.objects.keys()],
    until: (condition: () => boolean) =>
      poll(() => condition() || undefined, { signal: AbortSignal.timeout(5000), interval: 1 }),
    async [Symbol.asyncDispose]() {
      stop.abort();
      await watched.ended;
    },
  };
}

function kubeOf(...items: Step): FakeKube {
  const kube = new FakeKube();
  kube.lists.push({ items, version: "10" });
  return kube;
}

Deno.test("Watched.start() lists anew when the middle of a list is gone, or a page fails", async () => {
  for (const error of [new Gone("expired"), new Unreachable("cut")]) {
    const kube = kubeOf(named("half"), error);
    kube.lists.push({ items: [named("a"), named("b")], version: "20" });
    await using it = await watching(kube);
    assertEquals(it.kept(), ["a", "b"]);
    await it.until(() => kube.versions.length === 1);
    assertEquals(kube.versions, ["20"]);
  }
});

Deno.test("Watched keeps what it had when a list fails in the middle, and takes nothing for gone", async () => {
  const kube = kubeOf(named("a"), named("b"));
  kube.watches.push([new Gone("too old")]);
  kube.lists.push({ items: [named("b"), new Unreachable("cut")], version: "" });
  kube.lists.push({ items: [new Gone("expired")], version: "" });
  kube.lists.push({ items: [named("a"), named("b"), named("c")], version: "30" });
  await using it = await watching(kube);
  await it.until(() => kube.versions.length === 2);
  assertEquals(it.kept(), ["a", "b", "c"]);
  assertEquals(it.changes.filter((change) => change.endsWith("> -")), []);
  assertEquals(kube.versions, ["10", "30"]);
});

Deno.test("Watched finds out by a new list what was deleted while it was not looking", async () => {
  const kube = kubeOf(named("a"), named("b"));
  kube.watches.push([new Gone("too old")]);
  kube.lists.push({ items: [named("b")], version: "30" });
  await using it = await watching(kube);
  await it.until(() => kube.versions.length === 2);
  assertEquals(it.kept(), ["b"]);
  assertEquals(it.changes.slice(2), ["a: a > -", "b: b > b"]);
});

Deno.test("Watched follows changes; what fails after a sign of life makes it watch on from where it was", async () => {
  const kube = kubeOf(named("a"));
  kube.watches.push(
    [{ type: "ADDED", object: named("b", { resourceVersion: "11" }) }, new Unreachable("500")],
    [{ type: "DELETED", object: named("a", { resourceVersion: "12" }) }, "end"],
    [{ type: "BOOKMARK", object: named("", { resourceVersion: "40" }) }, "end"],
  );
  await using it = await watching(kube);
  await it.until(() => kube.versions.length === 4);
  assertEquals(kube.versions, ["10", "11", "12", "40"]);
  assertEquals(kube.listed, 1);
  assertEquals(it.kept(), ["b"]);
});

Deno.test("Watched begins a silent watch anew from the last version, and with a list when it stays silent", async () => {
  const kube = kubeOf(named("a"));
  kube.watches.push([{ type: "BOOKMARK", object: named("", { resourceVersion: "11" }) }]);
  kube.lists.push({ items: [named("b")], version: "20" });
  await using it = await watching(kube, { silence: 5 });
  await it.until(() => kube.versions.length >= 3);
  assertEquals(kube.versions.slice(0, 3), ["10", "11", "20"]);
  assertEquals(it.kept(), ["b"]);
});

Deno.test("Watched begins with a list where versions have gone back, as after a restore", async () => {
  const kube = kubeOf(named("a"));
  kube.watches.push([
    { type: "MODIFIED", object: named("a", { resourceVersion: "11" }) },
    { type: "BOOKMARK", object: named("", { resourceVersion: "9" }) },
  ]);
  kube.lists.push({ items: [], version: "9" });
  await using it = await watching(kube);
  await it.until(() => kube.versions.length >= 2);
  assertEquals([kube.versions, it.kept()], [["10", "9"], []]);
});

Deno.test("Watched.age is the time since the last sign of life, a bookmark or the begin of a list", async () => {
  let clock = 100;
  const gate = Promise.withResolvers<void>();
  const kube = kubeOf(named("a"));
  kube.watch = async function* <T extends KubeObject>(_path: string, { signal }: { signal: AbortSignal }) {
    await gate.promise;
    yield { type: "BOOKMARK", object: named("", { resourceVersion: "11" }) as T } satisfies WatchEvent<T>;
    await new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
  };
  const keep = ({ metadata }: KubeObject) => {
    clock += 7; // The list takes its time.
    return metadata.name;
  };
  await using it = await watching(kube, { now: () => clock, keep });
  assertEquals(it.watched.age, 7);
  clock = 500;
  assertEquals(it.watched.age, 400);
  gate.resolve();
  await it.until(() => it.watched.age === 0);
});

Deno.test("Watched: an object that cannot be read stays as it was, and harms no other", async () => {
  const bad = named("a", { resourceVersion: "11", labels: { bad: "1" } });
  const kube = kubeOf(named("a"), named("b"));
  kube.watches.push([{ type: "MODIFIED", object: bad }, { type: "ADDED", object: named("c") }, new Gone("old")]);
  kube.lists.push({ items: [bad, named("new", { labels: { bad: "1" } }), named("c")], version: "30" });
  const keep = ({ metadata }: KubeObject) => {
    if (metadata.labels?.["bad"]) throw new Error("not as it should be");
    return metadata.name;
  };
  await using it = await watching(kube, { keep });
  await it.until(() => kube.versions.length === 2);
  assertEquals(it.kept(), ["a", "c"]);
});

Deno.test("Watched goes on when whoever is told of a change throws", async () => {
  const kube = kubeOf(named("a"), named("b"));
  await using it = await watching(kube, {
    changed: () => {
      throw new Error("a defect");
    },
  });
  assertEquals(it.kept(), ["a", "b"]);
  assertEquals(kube.listed, 1);
});

Deno.test("Watched keeps nothing of what is dropped, also when it is dropped later", async () => {
  const foreign = { labels: { foreign: "1" } };
  const kube = kubeOf(named("a"), named("x", foreign));
  kube.watches.push([
    { type: "ADDED", object: named("y", foreign) },
    { type: "MODIFIED", object: named("a", foreign) },
    "end",
  ]);
  await using it = await watching(kube, {
    keep: ({ metadata }) => metadata.labels?.["foreign"] ? undefined : metadata.name,
  });
  await it.until(() => kube.versions.length === 2);
  assertEquals(it.kept(), []);
  assertEquals(it.changes, ["a: - > a", "a: a > -"]);
});

Deno.test("Watched.start() ends with the first deadline, and with the process, whichever comes first", async () => {
  const options = { kube: new FakeKube(), path: "/things", keep: () => "", random: () => 0 };
  const late = AbortSignal.timeout(10);
  const { signal } = new AbortController();
  await assertRejects(() => new Watched(options).start(signal, late));
  const ended = AbortSignal.abort();
  await assertRejects(() => new Watched(options).start(ended, ended));
});
