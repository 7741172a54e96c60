import { assertEquals, assertStringIncludes } from "@std/assert";
import { type Told } from "../kube/events.ts";
import { Unreachable } from "../runtime/errors.ts";
import { FakeClock } from "./fake_clock.ts";
import type { AccessMode } from "./decide.ts";
import { DRIVER, pv } from "./fake_controller.ts";
import { Migrations, type MigrationsOptions } from "./migrations.ts";
import { pvOf } from "./objects.ts";
import type { Seen } from "./view.ts";

const KEY = "pvc-1";

/** What both replicas see, and the events that both write to. */
class World {
  readonly clock: FakeClock;
  readonly posted = new Map<string, Told>();
  readonly counts: Record<string, number> = {};
  readonly seconds: number[] = [];
  holders: Seen[] = [];
  mode: AccessMode = "multi";
  timeout = 300_000;
  away = false;
  readonly #listeners = new Set<(key: string) => void>();

  constructor(clock: FakeClock) {
    this.clock = clock;
  }

  follower(): Migrations {
    const object = pv("pv", {
      handle: KEY,
      modes: [this.mode === "multi" ? "ReadWriteMany" : "ReadWriteOnce"],
      timeout: String(this.timeout / 1000),
    });
    return new Migrations({
      view: {
        of: () => this.holders,
        pv: () => pvOf(object, DRIVER),
        keys: () => [KEY],
        onChange: (listener) => {
          this.#listeners.add(listener);
          return () => this.#listeners.delete(listener);
        },
      },
      events: {
        once: (told, key) => {
          if (this.away) return Promise.reject(new Unreachable("away"));
          if (this.posted.has(key)) return Promise.resolve(false);
          this.posted.set(key, told);
          return Promise.resolve(true);
        },
      },
      metrics: {
        migrations: {
          inc: ({ result }: { result: string }) => void (this.counts[result] = (this.counts[result] ?? 0) + 1),
        },
        migrationDuration: { observe: (seconds: number) => void this.seconds.push(seconds) },
      } as unknown as MigrationsOptions["metrics"], // Only what is counted here is used.
      wall: () => this.clock.now,
    });
  }

  /** These nodes have it, the longest first. */
  async have(...nodes: string[]): Promise<void> {
    this.holders = nodes.map((nodeId, index) => ({
      uid: `uid-${nodeId}`,
      name: nodeId,
      nodeId,
      pv: "pv",
      attached: true,
      deleting: false,
      created: 1000 * index,
      seen: 0,
      volumeId: undefined,
      nqn: undefined,
    }));
    for (const listener of [...this.#listeners]) listener(KEY);
    await this.clock.idle();
  }

  get reasons(): string[] {
    return [...this.posted.values()].map(({ reason }) => reason);
  }
  get messages(): string {
    return [...this.posted.values()].map(({ message }) => message).join("\n");
  }
}

/** A follower that leads until the end of the block. */
async function leading(world: World, migrations = world.follower()) {
  const stop = new AbortController();
  migrations.start();
  const led = migrations.lead(stop.signal);
  await world.clock.idle();
  const end = async () => {
    stop.abort();
    migrations.stop();
    await led;
  };
  return {
    migrations,
    end,
    async [Symbol.asyncDispose]() {
      await end();
      assertEquals(world.clock.waiting, 0, "timers are left over");
    },
  };
}

for (
  const [left, reason, result] of [["a", "MigrationCompleted", "success"], ["b", "MigrationFailed", "failure"]] as const
) {
  Deno.test(`Migrations tell a begin and an end: ${reason} when ${left} leaves, with the time since the grant`, async () => {
    using clock = new FakeClock();
    const world = new World(clock);
    await world.have("a");
    await using it = await leading(world);
    it.migrations.granted("uid-b");
    await clock.advance(4000); // The watch is behind.
    await world.have("a", "b");
    assertEquals([world.reasons, it.migrations.active], [["MigrationStarted"], 1]);
    await clock.advance(20_000);
    await world.have(...["a", "b"].filter((name) => name !== left));
    assertEquals(world.reasons, ["MigrationStarted", reason]);
    assertEquals([world.counts, world.seconds, it.migrations.active], [{ [result]: 1 }, [24], 0]);
    assertStringIncludes(world.messages, "from a to b");
    await clock.advance(600_000);
    assertEquals(world.reasons.length, 2, "a timeout was told after the end");
  });
}

Deno.test("Migrations: the timeout is told once on a timer, frees nothing, and the end is told all the same", async () => {
  using clock = new FakeClock();
  const world = new World(clock);
  await world.have("a");
  await using it = await leading(world);
  it.migrations.granted("uid-b");
  await world.have("a", "b");
  await clock.advance(299_999);
  assertEquals(world.reasons, ["MigrationStarted"]);
  await clock.advance(1);
  assertEquals(world.reasons, ["MigrationStarted", "MigrationTimeout"]);
  await world.have("a", "b");
  await clock.advance(900_000);
  assertEquals(world.counts, { timeout: 1 });
  await world.have("b");
  assertEquals(world.counts, { timeout: 1, success: 1 });
});

Deno.test("Migrations: after a restart the clock began when the newer attachment was made, and nothing is told twice", async () => {
  using clock = new FakeClock();
  const world = new World(clock);
  {
    await using _ = await leading(world);
    await world.have("a", "b");
    assertEquals(world.reasons, ["MigrationStarted"]);
  }
  await clock.advance(200_000);
  {
    await using _ = await leading(world);
    await clock.advance(1000 + 100_000 - 1); // b was made at 1 s, so it is late at 301 s.
    assertEquals(world.counts, {});
    await clock.advance(1);
    assertEquals([world.reasons, world.counts], [["MigrationStarted", "MigrationTimeout"], { timeout: 1 }]);
  }
  await using _ = await leading(world);
  await clock.advance(10_000);
  assertEquals(world.counts, { timeout: 1 });
});

Deno.test("Migrations: of two replicas the one that leads tells and counts; the next leader tells what the last could not", async () => {
  using clock = new FakeClock();
  const world = new World(clock);
  await world.have("a");
  const second = world.follower();
  second.start();
  {
    await using first = await leading(world);
    await world.have("a", "b");
    assertEquals([world.reasons, first.migrations.active, second.active], [["MigrationStarted"], 1, undefined]);
    world.away = true;
    await clock.advance(300_000);
    assertEquals(world.reasons, ["MigrationStarted"]);
    await world.have("b");
  }
  second.stop();
  world.away = false;
  const stop = new AbortController();
  const led = second.lead(stop.signal);
  await clock.idle();
  assertEquals(new Set(world.reasons), new Set(["MigrationStarted", "MigrationTimeout", "MigrationCompleted"]));
  assertEquals(world.counts, { timeout: 1, success: 1 });
  stop.abort();
  await led;
});

Deno.test("Migrations: who leads anew tells of one that became late while nobody led", async () => {
  using clock = new FakeClock();
  const world = new World(clock);
  const follower = world.follower();
  follower.start();
  await world.have("a", "b");
  await clock.advance(600_000);
  const stop = new AbortController();
  const led = follower.lead(stop.signal);
  await clock.idle();
  assertEquals(world.reasons, ["MigrationTimeout"]);
  assertEquals(world.counts, { timeout: 1 });
  stop.abort();
  follower.stop();
  await led;
});

Deno.test("Migrations: with more than two holders the two oldest are the migration; when one of them leaves the next begins", async () => {
  using clock = new FakeClock();
  const world = new World(clock);
  await using it = await leading(world);
  await world.have("a", "b", "c");
  assertEquals([world.reasons, it.migrations.active], [["MigrationStarted"], 1]);
  assertStringIncludes(world.messages, "from a to b");
  await world.have("b", "c");
  assertEquals(world.reasons, ["MigrationStarted", "MigrationCompleted", "MigrationStarted"]);
  assertStringIncludes(world.messages, "from b to c");
  await world.have();
  assertEquals(it.migrations.active, 0);
});

Deno.test("Migrations: two holders of a ReadWriteOnce volume are a conflict, told once until it has ended", async () => {
  using clock = new FakeClock();
  const world = new World(clock);
  world.mode = "single";
  await using it = await leading(world);
  await world.have("a", "b");
  await world.have("a", "b");
  assertEquals([world.reasons, it.migrations.active], [["AttachmentConflict"], 0]);
  assertStringIncludes(world.messages, "a and b have the volume at once");
  await world.have("a");
  await world.have("a", "c");
  assertEquals(world.reasons, ["AttachmentConflict", "AttachmentConflict"]);
});

Deno.test("Migrations: who leads anew does not tell again what was late before the API server's events run out", async () => {
  using clock = new FakeClock();
  const world = new World(clock);
  const follower = world.follower();
  follower.start();
  await world.have("a", "b");
  await clock.advance(3_600_000);
  const stop = new AbortController();
  const led = follower.lead(stop.signal);
  await clock.idle();
  assertEquals([world.reasons, world.counts], [[], {}]);
  stop.abort();
  follower.stop();
  await led;
});
