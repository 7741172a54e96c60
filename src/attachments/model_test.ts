/**
 * Random histories of one volume against a model of the API server, nodes, attachers and RouterOS; see `model_world.ts`.
 * `RDS_CSI_MODEL_STEPS` makes it longer, `RDS_CSI_SEED` begins with the history that failed.
 * @module
 */
import { assert } from "@std/assert";
import fc from "fast-check";
import { type Rules, World } from "./model_world.ts";

/**
 * The manager as it is, in a world where patches land on what they were made for, but for one thing: a request is for the
 * attachment that exists (see `defects_test.ts` for what happens where the view still shows an older one).
 */
const rules: Rules = {
  patchesByName: false,
  checksUid: true,
  cutsAtGrantOnly: false,
  clearsItsOwn: false,
  owesFirst: false,
  readsLeaver: false,
  claimsLeaveFreely: false,
};
/** Nodes that are cut off although they were rightly granted: known, see `defects_test.ts`; counted, and not hidden. */
const known = /^cut off/;

const STEPS = Number(Deno.env.get("RDS_CSI_MODEL_STEPS") ?? 4_000_000);
const HISTORY = 200;
/** Histories that follow from one seed that fast-check draws: drawing each of them would take longer than running it. */
const SERIES = 1000;

/** What is wrong with the history of that seed, and when. */
function wrongOf(seed: number): string[] {
  const wrong: string[] = [];
  let step = 0;
  const world = new World(seed, rules, (what) => wrong.push(`RDS_CSI_SEED=${seed}, step ${step}: ${what}`));
  for (; step < HISTORY && wrong.length === 0; step++) world.step();
  if (wrong.length === 0) world.settle();
  return wrong;
}

Deno.test("decide() and the fence let no history have two nodes write to a ReadWriteOnce volume, nor a volume stuck", () => {
  const given = Deno.env.get("RDS_CSI_SEED");
  const seeds = given === undefined ? fc.integer({ min: 0, max: 2 ** 31 }) : fc.constant(Number(given));
  let cuts = 0;
  fc.assert(
    fc.property(seeds, (first) => {
      for (let seed = first; seed < first + SERIES; seed++) {
        const wrong = wrongOf(seed).filter((what) => !known.test(what.replace(/^.*?: /, "")) || (cuts++, false));
        assert(wrong.length === 0, wrong.join("\n"));
      }
    }),
    { numRuns: Math.ceil(STEPS / HISTORY / SERIES), endOnFailure: true },
  );
  assert(cuts * 20_000 <= STEPS, `${cuts} of ${STEPS / HISTORY} histories end with a node that was wrongly cut off`);
});
