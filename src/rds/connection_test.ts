import { assert, assertEquals, assertInstanceOf, assertRejects, assertStringIncludes } from "@std/assert";
import { Cancelled, NoSpace, TimedOut, Unreachable } from "../runtime/errors.ts";
import { AnswerLost, backoff, Connection, type Job } from "./connection.ts";
import { ros } from "./script.ts";
import type { Transport } from "./ssh.ts";

/** A RouterOS of one's own: answers when the test says so. */
class FakeTransport implements Transport {
  readonly lines: string[] = [];
  readonly #closed = Promise.withResolvers<void>();
  readonly closed = this.#closed.promise;
  readonly #answers: PromiseWithResolvers<string>[] = [];
  auto: ((line: string) => string | Promise<string>) | undefined;

  exec(line: string, signal: AbortSignal): Promise<string> {
    this.lines.push(line);
    const answer = Promise.withResolvers<string>();
    signal.addEventListener("abort", () => answer.reject(signal.reason), { once: true });
    this.closed.then(() => answer.reject(new Unreachable("cut")));
    if (this.auto) Promise.resolve(this.auto(line)).then(answer.resolve, answer.reject);
    else this.#answers.push(answer);
    return answer.promise;
  }
  answer(at: number, text: string): void {
    this.#answers[at]?.resolve(text);
  }
  close(): void {
    this.#closed.resolve();
  }
}

function sentinelOf(line: string): string {
  return /:put "(ok-[0-9a-f]+)"$/.exec(line)?.[1] ?? "";
}

function job(more: Partial<Job> = {}): Job {
  return { doing: "test", kind: "test", script: () => ros`:put 1`, deadline: 5000, ...more };
}

function connectionTo(...transports: FakeTransport[]): { connection: Connection } & Disposable {
  const connection = new Connection({
    random: () => 0,
    connect: () => {
      const next = transports.shift();
      return next ? Promise.resolve(next) : Promise.reject(new Unreachable("away: check the cable"));
    },
  });
  connection.start();
  return { connection, [Symbol.dispose]: () => connection.close() };
}

async function turn(): Promise<void> {
  await new Promise((resolve) => setTimeout(resolve, 0));
}

Deno.test("Connection.run() gives what stands before the sentinel", async () => {
  const transport = new FakeTransport();
  transport.auto = (line) => `[]\r\n0\r\n${sentinelOf(line)}\r\n`;
  using it = connectionTo(transport);
  assertEquals(await it.connection.run(job()), "[]\n0");
});

Deno.test("Connection.run() takes an answer without sentinel for the failure that its text tells", async () => {
  const transport = new FakeTransport();
  transport.auto = () => "failure: not enough space\r\n";
  using it = connectionTo(transport);
  await assertRejects(() => it.connection.run(job()), NoSpace, "not enough space");
});

Deno.test("Connection.run() does not take an old sentinel, nor one inside the output, for its own", async () => {
  const transport = new FakeTransport();
  transport.auto = (line) => `${sentinelOf(line)}\r\nfailure: something new\r\n`;
  using it = connectionTo(transport);
  await assertRejects(() => it.connection.run(job()), Error, "something new");
});

Deno.test("Connection sends four scripts at once and the rest in order", async () => {
  const transport = new FakeTransport();
  using it = connectionTo(transport);
  const runs = [0, 1, 2, 3, 4, 5].map((n) => it.connection.run(job({ script: () => ros`:put ${n}` })));
  await turn();
  assertEquals(transport.lines.length, 4);
  assertEquals(it.connection.queueLength, 2);
  transport.answer(2, sentinelOf(transport.lines[2] as string));
  await runs[2];
  await turn();
  assertEquals(transport.lines.map((line) => line.slice(0, 6)), [0, 1, 2, 3, 4].map((n) => `:put ${n}`));
  for (const at of [0, 1, 3, 4]) transport.answer(at, sentinelOf(transport.lines[at] as string));
  await turn();
  await turn();
  transport.answer(5, sentinelOf(transport.lines[5] as string));
  await Promise.all(runs);
});

Deno.test("Connection lets a caller that leaves the queue go at once, and gives its place to the next", async () => {
  const transport = new FakeTransport();
  using it = connectionTo(transport);
  const first = [0, 1, 2, 3].map(() => it.connection.run(job()));
  await turn();
  const caller = new AbortController();
  const leaving = it.connection.run(job({ script: () => ros`:put "left"`, signal: caller.signal }));
  const staying = it.connection.run(job({ script: () => ros`:put "stays"` }));
  caller.abort();
  await assertRejects(() => leaving, Cancelled);
  transport.answer(0, sentinelOf(transport.lines[0] as string));
  await turn();
  await turn();
  assertStringIncludes(transport.lines[4] as string, "stays");
  for (const at of [1, 2, 3, 4]) transport.answer(at, sentinelOf(transport.lines[at] as string));
  await Promise.all([...first, staying]);
});

Deno.test("Connection.run() tells a lost answer from a request that was never sent", async () => {
  const transport = new FakeTransport();
  using it = connectionTo(transport);
  const lost = it.connection.run(job());
  await turn();
  transport.close();
  const error = await assertRejects(() => lost, AnswerLost) as AnswerLost;
  assertInstanceOf(error.cause, Unreachable);
  await turn();
  const away = await assertRejects(() => it.connection.run(job()), Unreachable);
  assert(!(away instanceof AnswerLost));
  assertStringIncludes((away as Error).message, "check the cable");
});

Deno.test("Connection leaves a half-open connection after an answer that did not come, and the next script works", async () => {
  const [dead, alive] = [new FakeTransport(), new FakeTransport()];
  dead.auto = (line) => line.includes("here") ? Promise.reject(new Unreachable("half-open")) : new Promise(() => {});
  alive.auto = (line) => sentinelOf(line);
  using it = connectionTo(dead, alive);
  const error = await assertRejects(() => it.connection.run(job({ deadline: 1 })), AnswerLost) as AnswerLost;
  assertInstanceOf(error.cause, TimedOut);
  assertEquals(await it.connection.run(job()), "");
  assertEquals(alive.lines.length, 1);
});

Deno.test("Connection keeps a connection on which only one command is slow", async () => {
  const transport = new FakeTransport();
  transport.auto = (line) => line.includes("slow") ? new Promise(() => {}) : sentinelOf(line) || "here";
  using it = connectionTo(transport);
  await assertRejects(() => it.connection.run(job({ deadline: 1, script: () => ros`:put "slow"` })), AnswerLost);
  assertEquals(await it.connection.run(job()), "");
  assert(it.connection.connected);
});

Deno.test("backoff() waits up to 30 s with full jitter, and not at all after a good connection", () => {
  assertEquals([0, 1, 2, 3, 10].map((failures) => backoff(failures, 1)), [0, 1000, 2000, 4000, 30_000]);
  assertEquals(backoff(5, 0.5), 8000);
});

Deno.test("Connection backs off from a server that takes connections and drops them", async () => {
  let connects = 0;
  const connection = new Connection({
    random: () => 1,
    connect: () => {
      connects++;
      const transport = new FakeTransport();
      transport.close();
      return Promise.resolve(transport);
    },
  });
  connection.start();
  for (let n = 0; n < 20; n++) await turn();
  assertEquals(connects, 1);
  connection.close();
});

Deno.test("Connection does not doubt a server because a caller went away", async () => {
  const transport = new FakeTransport();
  using it = connectionTo(transport);
  const caller = new AbortController();
  const leaving = it.connection.run(job({ signal: caller.signal }));
  await turn();
  caller.abort();
  await assertRejects(() => leaving, AnswerLost);
  await turn();
  assertEquals(transport.lines.length, 1);
});

Deno.test("Connection refuses the script after a thousand that wait, unsent, and takes it when there is room", async () => {
  const transport = new FakeTransport();
  const it = connectionTo(transport);
  const waiting = Array.from({ length: 1004 }, () => it.connection.run(job()).catch(() => {}));
  await turn();
  assertEquals(it.connection.queueLength, 1000);
  await assertRejects(() => it.connection.run(job()), Unreachable, "was not sent");
  transport.auto = (line) => sentinelOf(line);
  for (const at of [0, 1, 2, 3]) transport.answer(at, sentinelOf(transport.lines[at] as string));
  await Promise.all(waiting);
  assertEquals(await it.connection.run(job()), "");
  it[Symbol.dispose]();
});

Deno.test("Connection.close() answers whoever waits for a connection", async () => {
  const never = new Connection({ connect: (signal) => new Promise((_, no) => signal.addEventListener("abort", no)) });
  never.start();
  const waiting = never.run(job());
  await turn();
  never.close();
  await assertRejects(() => waiting, Unreachable, "shutting down");
});
