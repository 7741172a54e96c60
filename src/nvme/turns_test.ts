import { assertEquals, assertRejects } from "@std/assert";
import { Cancelled } from "../runtime/errors.ts";
import { Places, Turns } from "./turns.ts";

const never = new AbortController().signal;
const settled = () => new Promise((resolve) => setTimeout(resolve));

Deno.test("Turns.run() lets one key work at a time, in order, and other keys meanwhile", async () => {
  const turns = new Turns();
  const gate = Promise.withResolvers<void>();
  const seen: string[] = [];
  const work = (name: string, until?: Promise<void>) => async () => {
    seen.push(name);
    await until;
  };
  const all = [
    turns.run("a", work("a1", gate.promise), { signal: never }),
    turns.run("a", work("a2"), { signal: never }),
    turns.run("b", work("b1"), { signal: never }),
  ];
  await settled();
  assertEquals(seen, ["a1", "b1"]);
  gate.resolve();
  await Promise.all(all);
  assertEquals(seen, ["a1", "b1", "a2"]);
});

Deno.test("Turns.run() keeps the turns of those behind one who leaves or fails", async () => {
  const turns = new Turns();
  const gate = Promise.withResolvers<void>();
  const caller = new AbortController();
  const first = turns.run("a", () => gate.promise, { signal: never });
  const leaving = turns.run("a", () => Promise.resolve("ran"), { signal: caller.signal });
  const failing = turns.run("a", () => Promise.reject(new Error("no")), { signal: never });
  let early = true;
  const last = turns.run("a", () => Promise.resolve(early), { signal: never });
  caller.abort();
  await assertRejects(() => leaving, Cancelled);
  await settled();
  early = false;
  gate.resolve();
  await first;
  await assertRejects(() => failing, Error, "no");
  assertEquals(await last, false);
});

Deno.test("Places.run() keeps to its count, and one who leaves takes no place along", async () => {
  const places = new Places(2);
  const gate = Promise.withResolvers<void>();
  const caller = new AbortController();
  let working = 0;
  let most = 0;
  const work = async () => {
    most = Math.max(most, ++working);
    await gate.promise;
    working--;
  };
  const kept = [1, 2, 3].map(() => places.run(work, { signal: never }));
  const leaving = places.run(work, { signal: caller.signal });
  const after = places.run(work, { signal: never });
  await settled();
  assertEquals(working, 2);
  caller.abort();
  await assertRejects(() => leaving, Cancelled);
  gate.resolve();
  await Promise.all([...kept, after]);
  assertEquals([working, most], [0, 2]);
  await assertRejects(() => places.run(() => Promise.reject(new Error("no")), { signal: never }), Error, "no");
  assertEquals(await places.run(() => Promise.resolve(7), { signal: never }), 7);
});
