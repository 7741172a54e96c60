import { assertEquals } from "@std/assert";
import { denoTestFiles, sumOf, type TestFilesOptions } from "./deno_tests.ts";

/** Writes test files into a folder and runs them. */
async function ran(files: Record<string, string>, options: TestFilesOptions = {}) {
  const folder = await Deno.makeTempDir({ prefix: "rds-csi-" });
  try {
    for (const [name, text] of Object.entries(files)) await Deno.writeTextFile(`${folder}/${name}`, text);
    return await denoTestFiles(folder, options);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

Deno.test("denoTestFiles() adds up what the files did, and counts one that does not load", async () => {
  const counts = await ran({
    "good_test.ts": "Deno.test('a', () => {}); Deno.test('b', () => {}); Deno.test.ignore('c', () => {});",
    "bad_test.ts": "Deno.test('d', () => { throw new Error('this failure belongs to a test'); });",
    "broken_test.ts": "throw new Error('this failure belongs to a test');",
    "none.ts": "throw new Error('it is no test');",
  }, { atOnce: 2 });
  assertEquals(counts, { passed: 2, failed: 2, skipped: ["the test 'c' left itself out"] });
});

Deno.test("denoTestFiles() ends a file that takes too long, and runs the others all the same", async () => {
  const counts = await ran({
    "a_test.ts": "Deno.test('hangs', () => new Promise((done) => setTimeout(done, 60_000)));",
    "b_test.ts": "Deno.test('runs', () => {});",
  }, { limit: 4000 });
  assertEquals([counts.passed, counts.failed], [1, 1]);
});

Deno.test("denoTestFiles() runs files together that share what a module of theirs has, in the order given", async () => {
  const counts = await ran({
    "shared.ts": "export const loaded: string[] = [];",
    "a_test.ts": `import { loaded } from "./shared.ts"; loaded.push("a");
      Deno.test("after b", () => { if (loaded.join() !== "b,a") throw new Error("this failure belongs to a test"); });`,
    "b_test.ts": `import { loaded } from "./shared.ts"; loaded.push("b"); Deno.test("b", () => {});`,
    "c_test.ts": `import { loaded } from "./shared.ts";
      Deno.test("alone", () => { if (loaded.length > 0) throw new Error("this failure belongs to a test"); });`,
  }, { together: [["b", "a"]] });
  assertEquals(counts, { passed: 3, failed: 0, skipped: [] });
});

Deno.test("sumOf() adds counts up", () => {
  const one = { passed: 1, failed: 2, skipped: ["a"] };
  assertEquals(sumOf([one, { passed: 10, failed: 0, skipped: ["b"] }]), { passed: 11, failed: 2, skipped: ["a", "b"] });
});
