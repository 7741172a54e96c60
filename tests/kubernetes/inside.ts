/**
 * Runs the tests of this folder, in namespaces of their own; the argument is the file that gets the counts.
 * @module
 */
import { denoTests } from "../lab/deno_tests.ts";

const [file = ""] = Deno.args;
await Deno.writeTextFile(file, JSON.stringify(await denoTests("tests/kubernetes")));
