/**
 * Random histories of one volume with two controllers of which everything is real; see `live_world.ts`. What `model_test.ts`
 * finds in the way they go about it, this finds in what they do. `RDS_CSI_HISTORIES` makes it longer, `RDS_CSI_SEED` runs
 * the one that failed.
 * @module
 */
import { assert } from "@std/assert";
import fc from "fast-check";
import { fence } from "../volumes/fence.ts";
import { FakeClock, random } from "./fake_clock.ts";
import { PREFIX } from "./fake_controller.ts";
import { BASE, type LiveDisk, LiveWorld } from "./live_world.ts";
import type { Fence } from "./release.ts";

const HISTORY = 120;
const given = Deno.env.get("RDS_CSI_SEED");
const HISTORIES = given === undefined ? Number(Deno.env.get("RDS_CSI_HISTORIES") ?? 1000) : 1;

function fenceOf({ get, fence: move }: LiveDisk): Fence {
  const disks = { get, fence: (_target: unknown, nqns: { from: string; to: string }) => move(nqns) };
  return (id, heldNqn, signal) => fence({ id, heldNqn }, { disks, prefix: PREFIX, bases: [BASE], signal });
}

/** What is wrong with the history of that seed. */
async function wrongOf(seed: number): Promise<string[]> {
  const pick = random(seed);
  using clock = new FakeClock(() => pick(1000) / 1000);
  const world = new LiveWorld({ clock, pick, fenceOf });
  await world.start();
  for (let step = 0; step < HISTORY && world.wrong.length === 0; step++) await world.step();
  if (world.wrong.length === 0) await world.settle();
  await world.stop();
  return world.wrong.map((what) => `RDS_CSI_SEED=${seed}: ${what}`);
}

Deno.test("KubernetesAttachments, two of them, let no history have two nodes write to a ReadWriteOnce volume, a node cut off that has it, nor a volume stuck", async () => {
  const seeds = given === undefined ? fc.integer({ min: 0, max: 2 ** 31 }) : fc.constant(Number(given));
  let crossed = 0;
  await fc.assert(
    fc.asyncProperty(seeds, async (seed) => {
      const all = await wrongOf(seed);
      // Two attachers that both believe to lead, and the older answer written last: see model_test.ts.
      const wrong = all.filter((what) => !what.includes(": crossed: "));
      if (all.length > 0) crossed++;
      assert(wrong.length === 0, wrong.join("\n"));
    }),
    { numRuns: HISTORIES, endOnFailure: true },
  );
  assert(crossed <= 1 + HISTORIES / 10_000, `${crossed} of ${HISTORIES} histories end with an answer that was crossed`);
});
