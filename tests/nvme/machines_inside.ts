/**
 * Runs the tests of this folder one after the other, in namespaces of their own; the argument is the file that gets the
 * counts.
 * @module
 */
import { denoTestFiles } from "../lab/deno_tests.ts";
import { unshare } from "../lab/namespace.ts";

const [file = ""] = Deno.args;
const limit = Deno.env.get("RDS_CSI_SOAK") ? 7_200_000 : 2_400_000;
/** What works on the same machines; where gates are put around the programs of a node comes last. */
const together = [
  ["machines_life", "machines_laboratory", "machines_histories", "machines_crash"],
  ["machines_outage", "machines_recovery", "machines_hangs"],
];
// What a file that is ended early leaves running must not go on beside the next one.
const counts = await denoTestFiles("tests/nvme", { by: ["unshare", ...unshare], limit, together });
await Deno.writeTextFile(file, JSON.stringify(counts));
