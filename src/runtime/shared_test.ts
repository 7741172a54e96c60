import { assertEquals, assertRejects } from "@std/assert";
import { Shared } from "./shared.ts";

/** Work that ends when it is told to. */
function held() {
  const runs: PromiseWithResolvers<number>[] = [];
  const shared = new Shared(() => {
    const run = Promise.withResolvers<number>();
    runs.push(run);
    return run.promise;
  });
  return { runs, shared };
}

const turn = () => new Promise((resolve) => setTimeout(resolve));

Deno.test("Shared.run() works once for all who ask at the same time, and once more for all who ask meanwhile", async () => {
  const { runs, shared } = held();
  const first = [shared.run(), shared.run()];
  await turn();
  const later = [shared.run(), shared.run(), shared.run()];
  await turn();
  assertEquals(runs.length, 1, "what is asked for meanwhile begins after it");
  runs[0]?.resolve(1);
  assertEquals(await Promise.all(first), [1, 1]);
  await turn();
  assertEquals(runs.length, 2);
  runs[1]?.resolve(2);
  assertEquals(await Promise.all(later), [2, 2, 2]);
  const last = shared.run();
  await turn();
  runs[2]?.resolve(3);
  assertEquals(await last, 3);
});

Deno.test("Shared.run() fails all who asked for it, and none after them", async () => {
  const { runs, shared } = held();
  const failing = [shared.run(), shared.run()];
  await turn();
  const next = shared.run();
  runs[0]?.reject(new Error("no"));
  for (const each of failing) await assertRejects(() => each, Error, "no");
  await turn();
  runs[1]?.resolve(2);
  assertEquals(await next, 2);
});
