/**
 * Runs the tests of this folder on one cluster, in namespaces of their own; the argument is the file that gets the counts.
 * @module
 */
import { denoTestFiles } from "../lab/deno_tests.ts";
import { unshare } from "../lab/namespace.ts";

const [file = ""] = Deno.args;
const together = [["pods", "driver_pod", "failures"]];
const counts = await denoTestFiles("tests/cluster", { by: ["unshare", ...unshare], limit: 2_400_000, together });
await Deno.writeTextFile(file, JSON.stringify(counts));
