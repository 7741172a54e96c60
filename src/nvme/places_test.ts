import { assertEquals, assertRejects } from "@std/assert";
import { Cancelled } from "../runtime/errors.ts";
import { Places } from "./places.ts";

const never = new AbortController().signal;
const settled = () => new Promise((resolve) => setTimeout(resolve));

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
