import { assertEquals, assertMatch, assertRejects } from "@std/assert";
import { NotGrown } from "../nvme/session.ts";
import { poll } from "../runtime/deadline.ts";
import {
  Busy,
  Cancelled,
  FailedPrecondition,
  InUse,
  InvalidArgument,
  TimedOut,
  Unreachable,
} from "../runtime/errors.ts";
import { Breakers } from "./breaker.ts";

const volume = { volumeId: "pvc-1", pv: "pvc-1-name" };
const other = { volumeId: "pvc-2" };
const broken = new FailedPrecondition("the filesystem is broken");
const minutes = (count: number) => count * 60_000;

/** Breakers on a clock of the test's, and a PV whose annotation it sets. */
class Node implements Disposable {
  readonly #wall = Date.now;
  #clock = Date.UTC(2030, 0, 1);
  annotation: string | undefined | Error;
  /** How often the annotation was read. */
  asked = 0;
  isLive = true;
  opened = 0;
  readonly told: string[] = [];
  readonly breakers = new Breakers({
    duration: minutes(5),
    cluster: {
      annotation: () => {
        this.asked++;
        return this.annotation instanceof Error ? Promise.reject(this.annotation) : Promise.resolve(this.annotation);
      },
      tell: (known, reason, message) => this.told.push(`${known.pv} ${reason} ${message}`),
    },
    isLive: () => this.isLive,
    opened: () => this.opened++,
  });

  constructor() {
    Date.now = () => this.#clock; // The package's breaker reads no other clock.
  }

  pass(milliseconds: number): void {
    this.#clock += milliseconds;
  }

  /** Fails so often. @returns how many attempts came through to the work */
  async fail(
    times: number,
    error: unknown = broken,
    known: { volumeId: string; pv?: string } = volume,
  ): Promise<number> {
    let worked = 0;
    for (let time = 0; time < times; time++) {
      await this.breakers.run(known, () => {
        worked++;
        return Promise.reject(error);
      }).catch(() => {});
    }
    return worked;
  }

  succeed(known: { volumeId: string } = volume): Promise<string> {
    return this.breakers.run(known, () => Promise.resolve("staged"));
  }

  [Symbol.dispose](): void {
    Date.now = this.#wall;
  }
}

Deno.test("Breakers.run() tries a volume no more for five minutes after three failures in a row, and touches no other", async () => {
  using node = new Node();
  assertEquals(await node.fail(5), 3);
  assertEquals([node.opened, node.breakers.open], [1, 1]);
  const error = await assertRejects(() => node.succeed(), Unreachable) as Unreachable;
  assertMatch(error.message, /pvc-1 is not staged until 2030-01-01T00:05:00.000Z: it failed 3 times in a row/);
  assertMatch(error.message, /because the filesystem is broken.*annotate --overwrite pv pvc-1-name rds.*breaker=true/);
  assertEquals(node.told, [`pvc-1-name CircuitBreakerOpened ${error.message}`]);
  assertEquals(await node.succeed(other), "staged");
  node.pass(minutes(5) - 1);
  assertEquals(await node.fail(1), 0);
  node.pass(1);
  assertEquals(node.breakers.open, 0);
  assertEquals(await node.succeed(), "staged");
  assertEquals(await node.fail(2), 2);
  assertEquals([node.opened, node.breakers.open], [1, 0]);
});

Deno.test("Breakers.run() opens anew when the one try after the time fails too", async () => {
  using node = new Node();
  await node.fail(3);
  node.pass(minutes(5));
  assertEquals(await node.fail(3, new TimedOut("mkfs")), 1);
  assertEquals([node.opened, node.breakers.open], [2, 1]);
  await assertRejects(() => node.succeed(), Unreachable, "4 times in a row, lastly because mkfs");
});

Deno.test("Breakers.run() counts what goes wrong with the device alone, and a success in between begins anew", async () => {
  using node = new Node();
  const notIts = [InvalidArgument, Cancelled, Busy, InUse, NotGrown].map((kind) => new kind("not the device's"));
  for (const error of notIts) assertEquals(await node.fail(4, error), 4);
  node.isLive = false;
  for (const error of [new Unreachable("no route"), new TimedOut("the API"), broken]) {
    assertEquals(await node.fail(4, error), 4);
  }
  node.isLive = true;
  assertEquals([node.opened, node.asked], [0, 0]);
  await node.fail(2);
  await node.fail(5, new Busy("not the device's"));
  assertEquals(node.opened, 0);
  await node.fail(1, new Unreachable("it went away under mkfs"));
  assertEquals(node.opened, 1);
  node.breakers.forget(volume.volumeId);
  await node.fail(2);
  await node.succeed();
  await node.fail(2);
  assertEquals(node.opened, 1);
});

Deno.test("Breakers.run() keeps no outage's length: a server that is away when the time is over does not open it anew", async () => {
  using node = new Node();
  await node.fail(3);
  node.pass(minutes(5));
  node.isLive = false;
  assertEquals(await node.fail(2, new Unreachable("no route")), 2);
  node.isLive = true;
  assertEquals(await node.succeed(), "staged");
});

Deno.test("Breakers.run() honours each value of the annotation once, and asks for it only when it is open", async () => {
  using node = new Node();
  node.annotation = "true";
  await node.fail(2);
  assertEquals(node.asked, 0);
  await node.fail(1);
  assertEquals(await node.fail(5), 3); // Honoured: three more, then it is open, and the value is used up.
  assertEquals(node.opened, 2);
  node.annotation = "again";
  assertEquals(await node.succeed(), "staged");
  node.annotation = undefined;
  await node.fail(3);
  assertEquals(await node.fail(1), 0); // Seen to be gone.
  node.annotation = "again";
  assertEquals(await node.succeed(), "staged");
});

Deno.test("Breakers.run() honours a value again that was away when the breaker opened, though nothing was staged meanwhile", async () => {
  using node = new Node();
  node.annotation = "true";
  await node.fail(3);
  assertEquals(await node.succeed(), "staged");
  node.annotation = undefined; // The controller takes it off.
  const before = node.asked;
  await node.fail(3);
  await poll(() => node.asked > before || undefined, { signal: AbortSignal.timeout(5000), interval: 1 });
  node.annotation = "true";
  assertEquals(await node.succeed(), "staged");
});

Deno.test("Breakers.run() stays open when nobody can be asked, and for values that mean no", async () => {
  using node = new Node();
  node.annotation = new Unreachable("the API is away");
  await node.fail(3);
  await assertRejects(() => node.succeed(), Unreachable, "3 times in a row");
  for (const no of ["", "false", undefined]) {
    node.annotation = no;
    await assertRejects(() => node.succeed(), Unreachable, "3 times in a row");
  }
  node.annotation = "true";
  assertEquals(await node.succeed(), "staged");
});

Deno.test("Breakers.forget() closes the breaker of a volume that is not wanted here any more", async () => {
  using node = new Node();
  await node.fail(3);
  await node.fail(3, broken, other);
  node.breakers.forget(volume.volumeId);
  assertEquals(node.breakers.open, 1);
  assertEquals(await node.succeed(), "staged");
});
