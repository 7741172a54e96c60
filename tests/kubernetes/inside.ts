/**
 * Runs the tests of this folder, in namespaces of their own; the argument is the file that gets the counts.
 * @module
 */
import { denoTestFiles } from "../lab/deno_tests.ts";
import { unshare } from "../lab/namespace.ts";

const [file = ""] = Deno.args;
// What a file that is ended early leaves running must not go on beside the next one.
const soak = Deno.env.get("RDS_CSI_SOAK") ? { limit: 1_800_000 } : {};
const counts = await denoTestFiles("tests/kubernetes", { atOnce: 2, by: ["unshare", ...unshare], ...soak });
await Deno.writeTextFile(file, JSON.stringify(counts));
