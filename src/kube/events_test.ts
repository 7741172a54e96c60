import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { poll } from "../runtime/deadline.ts";
import { AlreadyExists, InvalidArgument, NotFound, TimedOut, Unreachable } from "../runtime/errors.ts";
import type { KubeObject } from "./client.ts";
import { Forbidden, NamespaceEnding } from "./errors.ts";
import { Events, type EventsOptions, type Told } from "./events.ts";

type Kept = KubeObject & { count: number; lastTimestamp: string; message: string; involvedObject: { kind: string } };

/** Keeps events by path, as an API server does; `fail` says what goes wrong first. */
class FakeKube {
  readonly events = new Map<string, Kept>();
  readonly fail: (Error | undefined)[] = [];
  asked = 0;

  // deno-lint-ignore require-await -- stands in for a request
  async create<T extends KubeObject>(path: string, object: object): Promise<T> {
    this.#ask();
    const key = `${path}/${(object as KubeObject).metadata.name}`;
    if (this.events.has(key)) throw new AlreadyExists("there already");
    this.events.set(key, object as Kept);
    return object as T;
  }
  // deno-lint-ignore require-await -- as above
  async patch<T extends KubeObject>(path: string, change: object): Promise<T> {
    this.#ask();
    const event = this.events.get(path);
    if (!event) throw new NotFound("no such event");
    return Object.assign(event, change) as unknown as T;
  }
  #ask(): void {
    this.asked++;
    const error = this.fail.shift();
    if (error) throw error;
  }
  get all(): Kept[] {
    return [...this.events.values()];
  }
}

function eventsTo(kube: FakeKube, more: Partial<EventsOptions> = {}) {
  const counts: Record<string, number> = {};
  const counter = (name: string) => ({
    inc: ({ reason }: { reason: string }) => counts[`${name} ${reason}`] = (counts[`${name} ${reason}`] ?? 0) + 1,
  });
  const metrics = { eventsPosted: counter("posted"), eventsLost: counter("lost") };
  let seconds = 0;
  const wall = () => new Date(Date.UTC(2030, 0, 1, 0, 0, seconds++, 123));
  const events = new Events({ kube, component: "rds-csi", host: "host-1", metrics, random: () => 0, wall, ...more });
  return { events, counts };
}

function told(message = "to node-1", more: Partial<Told> = {}): Told {
  const about = { apiVersion: "v1", kind: "PersistentVolumeClaim", namespace: "shop", name: "data", uid: "u1" };
  return { about, reason: "VolumeAttached", message, ...more };
}

function until(condition: () => boolean): Promise<true> {
  return poll(() => condition() || undefined, { signal: AbortSignal.timeout(5000), interval: 1 });
}

Deno.test("Events.post() makes an event that says who, what, when and about what", async () => {
  const kube = new FakeKube();
  const { events, counts } = eventsTo(kube);
  events.post(told());
  await events.close(5000);
  const [[path, event] = ["", undefined]] = [...kube.events];
  assertMatch(path, /^\/api\/v1\/namespaces\/shop\/events\/data\.[0-9a-f]{16}$/);
  assertEquals<unknown>(event, {
    apiVersion: "v1",
    kind: "Event",
    metadata: { name: path.split("/").pop(), namespace: "shop" },
    involvedObject: told().about,
    type: "Normal",
    reason: "VolumeAttached",
    message: "to node-1",
    source: { component: "rds-csi", host: "host-1" },
    reportingComponent: "rds-csi",
    reportingInstance: "host-1",
    firstTimestamp: "2030-01-01T00:00:00Z",
    lastTimestamp: "2030-01-01T00:00:00Z",
    count: 1,
  });
  assertEquals(counts, { "posted VolumeAttached": 1 });
});

Deno.test("Events.post() counts what was said before, also by another replica; other words or objects are other events", async () => {
  const kube = new FakeKube();
  for (let replica = 0; replica < 3; replica++) {
    const { events } = eventsTo(kube, { host: `host-${replica}` });
    events.post(told());
    await events.close(5000);
  }
  const { events } = eventsTo(kube);
  events.post(told("to node-2"));
  events.post(told("to node-1", { about: { ...told().about, uid: "u2" } }));
  await events.close(5000);
  assertEquals(kube.all.map(({ count }) => count), [3, 1, 1]);
});

Deno.test("Events.post() puts events about what lies in no namespace into 'default'", async () => {
  const kube = new FakeKube();
  const { events } = eventsTo(kube);
  events.post(told("x", { about: { apiVersion: "v1", kind: "PersistentVolume", name: "pvc-1" } }));
  await events.close(5000);
  assertMatch([...kube.events.keys()][0] ?? "", /^\/api\/v1\/namespaces\/default\/events\/pvc-1\./);
});

Deno.test("Events.post() cuts messages at 1024 bytes between characters, and names at 253", async () => {
  const kube = new FakeKube();
  const { events } = eventsTo(kube);
  const about = { ...told().about, name: `${"a".repeat(235)}.${"b".repeat(17)}` };
  for (const message of ["é".repeat(512), "é".repeat(600), `x${"💾".repeat(300)}`]) {
    events.post(told(message, { about }));
  }
  await events.close(5000);
  const bytes = kube.all.map(({ message }) => new TextEncoder().encode(message).length);
  assertEquals(bytes, [1024, 1023, 1024]);
  assert(kube.all.every(({ message }) => !message.includes("\ufffd") && message.isWellFormed()));
  for (const { metadata } of kube.all) assertMatch(metadata.name, /^[a-z0-9.]{1,253}$/);
  assert(kube.all.every(({ metadata }) => !metadata.name.includes("..")));
});

Deno.test("Events.post() tries again while the API is away, in order, and when the event ended in between", async () => {
  const kube = new FakeKube();
  kube.fail.push(new Unreachable("away"), new TimedOut("slow"), undefined, new AlreadyExists("just ended"));
  const { events, counts } = eventsTo(kube);
  events.post(told("first"));
  events.post(told("second"));
  await events.close(5000);
  assertEquals(kube.all.map(({ message }) => message), ["first", "second"]);
  assertEquals(counts, { "posted VolumeAttached": 2 });
});

Deno.test("Events.post() drops and counts what can never be posted, and goes on with the next", async () => {
  const kube = new FakeKube();
  kube.fail.push(new NotFound("no namespace"), new NamespaceEnding("ending"), new InvalidArgument("bad"));
  const { events, counts } = eventsTo(kube);
  for (const message of ["1", "2", "3", "4"]) events.post(told(message));
  await events.close(5000);
  assertEquals(kube.all.map(({ message }) => message), ["4"]);
  assertEquals(counts, { "lost VolumeAttached": 3, "posted VolumeAttached": 1 });
});

Deno.test("Events.post() waits slowly for a permission, loses nothing meanwhile, and asks with one event only", async () => {
  const kube = new FakeKube();
  kube.fail.push(...["1", "2", "3", "1 again"].map((which) => new Forbidden(which)));
  const { events, counts } = eventsTo(kube, { slow: 5 });
  for (const message of ["1", "2", "3"]) events.post(told(message));
  await until(() => kube.events.size === 3);
  await events.close(5000);
  assertEquals(kube.asked, 4 + 3);
  assertEquals(counts, { "posted VolumeAttached": 3 });
});

Deno.test("Events.post() never throws: what does not fit in the queue, or comes after the end, is counted", async () => {
  const kube = new FakeKube();
  const { events, counts } = eventsTo(kube);
  for (let n = 0; n < 1003; n++) events.post(told(String(n)));
  assertEquals(counts["lost VolumeAttached"], 3);
  await events.close(5000);
  assertEquals(counts["posted VolumeAttached"], 1000);
  events.post(told("late"));
  assertEquals(counts["lost VolumeAttached"], 4);
});

Deno.test("Events.close() keeps to its deadline while the API hangs, and counts what is left", async () => {
  const kube = new FakeKube();
  kube.create = () => new Promise(() => {});
  const { events, counts } = eventsTo(kube);
  events.post(told("1"));
  events.post(told("2"));
  await events.close(5);
  assertEquals(counts, { "lost VolumeAttached": 2 });
});

Deno.test("Events.once() tells once for all replicas whatever the words, and throws when that is not known", async () => {
  const kube = new FakeKube();
  const { signal } = new AbortController();
  const [first, second] = [eventsTo(kube), eventsTo(kube)];
  kube.fail.push(new Unreachable("away"));
  await assertRejects(() => first.events.once(told("after 300 s"), "migration-1", signal), Unreachable);
  assertEquals(await first.events.once(told("after 300 s"), "migration-1", signal), true);
  assertEquals(await second.events.once(told("after 301 s"), "migration-1", signal), false);
  assertEquals(await second.events.once(told("after 301 s"), "migration-2", signal), true);
  assertEquals(kube.all.map(({ message }) => message), ["after 300 s", "after 301 s"]);
});

Deno.test("Events.postSought() looks for what it is about behind the caller's back, and again until it is found", async () => {
  const kube = new FakeKube();
  const { events, counts } = eventsTo(kube);
  const answers = [new Unreachable("away"), new TimedOut("away")];
  const about = () => {
    const error = answers.shift();
    return error ? Promise.reject(error) : Promise.resolve(told().about);
  };
  events.postSought({ about, reason: "MountFailure", message: "broken" });
  await until(() => kube.all.length === 1);
  assertEquals(kube.all.map(({ involvedObject }) => involvedObject), [told().about]);
  await events.close(5000);
  assertEquals(counts, { "posted MountFailure": 1 });
});

Deno.test("Events.postSought() counts what is never found, and holds no other event up", async () => {
  const kube = new FakeKube();
  const { events, counts } = eventsTo(kube);
  events.postSought({ about: () => Promise.reject(new Unreachable("away")), reason: "MountFailure", message: "x" });
  events.post(told());
  await until(() => kube.all.length === 1);
  await events.close(20);
  assertEquals(counts, { "posted VolumeAttached": 1, "lost MountFailure": 1 });
});
