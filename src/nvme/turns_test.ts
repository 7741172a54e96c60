import { assertEquals, assertRejects } from "@std/assert";
import { Cancelled } from "../runtime/errors.ts";
import { Turns } from "./turns.ts";

const never = new AbortController().signal;
const settled = () => new Promise((resolve) => setTimeout(resolve));

Deno.test("Turns.run() lets one key work at a time, in order, and other keys meanwhile", async () => {
  const turns = new Turns(4);
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

Deno.test("Turns.run() keeps to its limit, and one who leaves takes no place along", async () => {
  const turns = new Turns(2);
  const gate = Promise.withResolvers<void>();
  const caller = new AbortController();
  let working = 0;
  const work = async () => {
    working++;
    await gate.promise;
    working--;
  };
  const kept = ["a", "b", "c"].map((key) => turns.run(key, work, { signal: never }));
  const leaving = turns.run("d", work, { signal: caller.signal });
  const after = turns.run("d", work, { signal: never });
  await settled();
  assertEquals(working, 2);
  caller.abort();
  await assertRejects(() => leaving, Cancelled);
  gate.resolve();
  await Promise.all([...kept, after]);
  assertEquals(working, 0);
});

Deno.test("Turns.run() goes on after a failure", async () => {
  const turns = new Turns(1);
  await assertRejects(() => turns.run("a", () => Promise.reject(new Error("no")), { signal: never }), Error, "no");
  assertEquals(await turns.run("a", () => Promise.resolve(7), { signal: never }), 7);
});
