import { assert, assertEquals, assertNotEquals } from "@std/assert";
import fc from "fast-check";
import { setImmediate } from "node:timers";
import { abortable } from "../runtime/deadline.ts";
import { NotFound, Unreachable } from "../runtime/errors.ts";
import type { KubeObject } from "./client.ts";
import { Conflict } from "./errors.ts";
import { Lease, type LeaseObject } from "./lease.ts";

/** Time that goes on when told. */
class Clock {
  time = 0;
  #sleepers: { at: number; wake: () => void }[] = [];

  pause(milliseconds: number, signal?: AbortSignal): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#sleepers.push({ at: this.time + Math.max(milliseconds, 0), wake: resolve });
    return abortable(promise, signal);
  }

  /** @param check runs after every single thing that happened; `isDue`: more happens at the same moment */
  async advance(milliseconds: number, check: (isDue: boolean) => void = () => {}): Promise<void> {
    const end = this.time + milliseconds;
    for (;;) {
      await settled();
      this.#sleepers.sort((a, b) => a.at - b.at);
      const next = this.#sleepers[0];
      check(next !== undefined && next.at <= this.time);
      if (!next || next.at > end) break;
      this.#sleepers.shift();
      this.time = Math.max(this.time, next.at);
      next.wake();
    }
    this.time = end;
    check(false);
  }
}

/** What is under way has gone as far as it can without time. */
function settled(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

/** One lease, as an API server keeps it. */
class FakeApi {
  lease: LeaseObject | undefined;
  #version = 0;

  read(): LeaseObject {
    if (!this.lease) throw new NotFound("no lease");
    return structuredClone(this.lease);
  }
  write(object: LeaseObject): LeaseObject {
    if (this.lease?.metadata.resourceVersion !== object.metadata.resourceVersion) throw new Conflict("it moved");
    this.lease = structuredClone(object);
    this.lease.metadata.resourceVersion = String(++this.#version);
    return this.read();
  }
}

/** One replica: its way to the API, its process that may stand still, its time of day. */
class Candidate {
  readonly lease: Lease;
  readonly stop = new AbortController();
  readonly starts: AbortSignal[] = [];
  ended: Promise<void> = Promise.resolve();
  isAway = false;
  losesAnswers = false;
  latency = 0;
  frozenUntil = 0;
  wallOffset = 0;

  constructor(readonly clock: Clock, readonly api: FakeApi, host: string) {
    const request = async <T>(work: () => LeaseObject, signal?: AbortSignal): Promise<T> => {
      await this.#pause(this.latency, signal);
      if (this.isAway) throw new Unreachable("away");
      const answer = work();
      await this.#pause(this.latency, signal);
      if (this.losesAnswers) throw new Unreachable("the answer was lost");
      return answer as unknown as T;
    };
    this.lease = new Lease({
      kube: {
        get: <T extends KubeObject>(_: string, o: { signal?: AbortSignal | undefined } = {}) =>
          request<T>(() => api.read(), o.signal),
        create: <T extends KubeObject>(_: string, object: object, o: { signal?: AbortSignal | undefined } = {}) =>
          request<T>(() => api.write(object as LeaseObject), o.signal),
        replace: <T extends KubeObject>(_: string, object: object, o: { signal?: AbortSignal | undefined } = {}) =>
          request<T>(() => api.write(object as LeaseObject), o.signal),
      },
      namespace: "rds-csi",
      name: "rds-csi",
      host,
      now: () => clock.time,
      wall: () => new Date(Date.UTC(2030, 0, 1) + clock.time + this.wallOffset),
      pause: (milliseconds, signal) => this.#pause(milliseconds, signal),
    });
  }

  begin(): void {
    this.ended = this.lease.leading(async (signal) => {
      this.starts.push(signal);
      await this.clock.pause(Infinity, signal).catch(() => {});
    }, this.stop.signal);
  }

  /** Its work was not told to stop. */
  get isWorking(): boolean {
    const signal = this.starts.at(-1);
    return signal !== undefined && !signal.aborted;
  }

  get isFrozen(): boolean {
    return this.clock.time < this.frozenUntil;
  }

  /** In a process that stands still nothing returns. */
  async #pause(milliseconds: number, signal?: AbortSignal): Promise<void> {
    await this.clock.pause(milliseconds, signal);
    while (this.isFrozen) await this.clock.pause(this.frozenUntil - this.clock.time);
  }
}

function two(): { clock: Clock; api: FakeApi; candidates: [Candidate, Candidate] } {
  const clock = new Clock();
  const api = new FakeApi();
  return { clock, api, candidates: [new Candidate(clock, api, "a"), new Candidate(clock, api, "b")] };
}

async function stopAll(clock: Clock, candidates: Candidate[]): Promise<void> {
  for (const candidate of candidates) candidate.stop.abort();
  await clock.advance(120_000);
  await Promise.all(candidates.map(({ ended }) => ended));
}

Deno.test("Lease: one leads, and gives the lease up when it stops, so that the other leads at its next try", async () => {
  const { clock, api, candidates: [a, b] } = two();
  a.begin();
  await clock.advance(100);
  b.begin();
  await clock.advance(60_000);
  assertEquals([a.lease.isLeader, b.lease.isLeader, a.starts.length, b.starts.length], [true, false, 1, 0]);
  assertEquals(api.lease?.spec?.holderIdentity, a.lease.holder);
  assertEquals(api.lease?.spec?.leaseDurationSeconds, 15);
  assert(/^2030-01-01T00:0\d:\d\d\.\d{6}Z$/.test(api.lease?.spec?.renewTime ?? ""));
  a.stop.abort();
  await clock.advance(2000);
  await a.ended;
  assertEquals([a.lease.isLeader, b.lease.isLeader, a.isWorking, b.isWorking], [false, true, false, true]);
  assertEquals(api.lease?.spec?.leaseTransitions, 1);
  await stopAll(clock, [b]);
  assertEquals(api.lease?.spec?.holderIdentity, "");
});

Deno.test("Lease: who cannot renew leads no longer than its deadline, and the other not before the lease's duration", async () => {
  const { clock, candidates: [a, b] } = two();
  a.begin();
  await clock.advance(1);
  b.begin();
  await clock.advance(1);
  a.isAway = true;
  await clock.advance(9_997);
  assertEquals([a.lease.isLeader, a.isWorking], [true, true]);
  await clock.advance(1);
  assertEquals([a.lease.isLeader, a.isWorking], [false, false]);
  await clock.advance(4_999);
  assertEquals(b.lease.isLeader, false);
  await clock.advance(3_000);
  assertEquals(b.lease.isLeader, true);
  await stopAll(clock, [a, b]);
});

Deno.test("Lease: work begins again when leadership is regained, and never beside its own forerunner", async () => {
  const { clock, candidates: [a] } = two();
  a.begin();
  await clock.advance(1);
  a.isAway = true;
  await clock.advance(20_000);
  assertEquals([a.starts.length, a.isWorking], [1, false]);
  a.isAway = false;
  await clock.advance(4_000);
  assertEquals([a.starts.length, a.isWorking], [2, true]);
  await stopAll(clock, [a]);
});

Deno.test("Lease: work that throws begins again, work that ends does not", async () => {
  const { clock, candidates: [a] } = two();
  let runs = 0;
  a.ended = a.lease.leading(
    () => ++runs < 3 ? Promise.reject(new Error("a defect")) : Promise.resolve(),
    a.stop.signal,
  );
  await clock.advance(60_000);
  assertEquals(runs, 3);
  await stopAll(clock, [a]);
});

Deno.test("Lease: timestamps of another's lease mean nothing, only how long it was seen unchanged", async () => {
  const { clock, api, candidates: [a] } = two();
  api.write({
    metadata: { name: "rds-csi" },
    spec: { holderIdentity: "other", renewTime: "1999-01-01T00:00:00.000000Z", leaseDurationSeconds: 30 },
  });
  a.begin();
  await clock.advance(29_000);
  assertEquals(a.lease.isLeader, false); // The other's own duration is longer than ours.
  await clock.advance(4_000);
  assertEquals(a.lease.isLeader, true);
  await stopAll(clock, [a]);
});

Deno.test("Lease: a leader that sees another's name in the lease stops its work at once", async () => {
  const { clock, api, candidates: [a] } = two();
  a.begin();
  await clock.advance(1);
  const lease = api.read();
  api.write({ ...lease, spec: { ...lease.spec, holderIdentity: "somebody" } });
  await clock.advance(2000);
  assertEquals([a.lease.isLeader, a.isWorking], [false, false]);
  await stopAll(clock, [a]);
});

Deno.test("Lease: the holder is the host's name and something random, so that a restarted process is another", () => {
  const { candidates: [a] } = two();
  assert(a.lease.holder.startsWith("a_"));
  assertNotEquals(a.lease.holder, new Candidate(a.clock, a.api, "a").lease.holder);
});

Deno.test("Lease: no two lead at once in any history of failures, lost answers, slowness, standstill and clock jumps", async () => {
  const who = fc.nat(1);
  const step = fc.oneof(
    { weight: 4, arbitrary: fc.record({ kind: fc.constant("go"), who, value: fc.integer({ min: 1, max: 20_000 }) }) },
    fc.record({ kind: fc.constantFrom("away", "losesAnswers"), who, value: fc.nat(1) }),
    fc.record({ kind: fc.constant("latency"), who, value: fc.constantFrom(0, 10, 1500, 6000) }),
    fc.record({ kind: fc.constant("freeze"), who, value: fc.integer({ min: 1, max: 40_000 }) }),
    fc.record({ kind: fc.constant("wall"), who, value: fc.integer({ min: -1e9, max: 1e9 }) }),
    fc.record({ kind: fc.constant("stop"), who, value: fc.constant(0) }),
  );
  let led = 0;
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 5, maxLength: 25 }), async (steps) => {
      const { clock, candidates } = two();
      const never = (isDue: boolean) => {
        assert(candidates.filter(({ lease }) => lease.isLeader).length <= 1, `two lead at ${clock.time} ms`);
        if (isDue) return; // A process that goes on again needs that moment to tell its work.
        const working = candidates.filter((each) => each.isWorking && !each.isFrozen);
        assert(working.length <= 1, `two work at ${clock.time} ms`);
      };
      for (const candidate of candidates) candidate.begin();
      for (const { kind, who, value } of steps) {
        const candidate = candidates[who] as Candidate;
        if (kind === "away") candidate.isAway = value === 1;
        if (kind === "losesAnswers") candidate.losesAnswers = value === 1;
        if (kind === "latency") candidate.latency = value;
        if (kind === "freeze") candidate.frozenUntil = Math.max(candidate.frozenUntil, clock.time + value);
        if (kind === "wall") candidate.wallOffset = value;
        if (kind === "stop") candidate.stop.abort();
        if (kind === "go") await clock.advance(value, never);
      }
      led += candidates.reduce((sum, { starts }) => sum + starts.length, 0);
      for (const each of candidates) Object.assign(each, { isAway: false, losesAnswers: false, latency: 0 });
      const left = candidates.filter(({ stop }) => !stop.signal.aborted);
      await clock.advance(100_000, never);
      if (left.length > 0) {
        assert(left.some(({ lease }) => lease.isLeader), "nobody leads although nothing is in the way");
      }
      await stopAll(clock, candidates);
    }),
    { numRuns: 150 },
  );
  assert(led > 150, "the histories were too tame to show anything");
});
