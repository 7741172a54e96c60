/**
 * Runs the tests of this folder one after the other, in namespaces of their own; the argument is the file that gets the
 * counts.
 * @module
 */
import { denoTestFiles } from "../lab/deno_tests.ts";
import { unshare } from "../lab/namespace.ts";

const [file = ""] = Deno.args;
const limit = Deno.env.get("RDS_CSI_SOAK") ? 3_600_000 : 900_000;
// What a file that is ended early leaves running must not go on beside the next one.
const counts = await denoTestFiles("tests/nvme", { by: ["unshare", ...unshare], limit });
await Deno.writeTextFile(file, JSON.stringify(counts));
