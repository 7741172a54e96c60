import { assert } from "@std/assert";

const root = new URL("../../", import.meta.url);

/** `file: beginning of a test's name` in each pair of backticks; names of templates have backticks of their own. */
function named(page: string): { file: string; name: string }[] {
  return [...page.matchAll(/`((?:src|tests)\/[\w/]+_test\.ts)(?:: ((?:[^`]|``)+))?`(?!`)/g)]
    .map(([, file = "", name = ""]) => ({ file, name: name.replaceAll(/\s+/g, " ") }));
}

Deno.test("every test that docs/guarantees.md names exists", async () => {
  const promised = named(await Deno.readTextFile(new URL("docs/guarantees.md", root)));
  assert(promised.length > 50, `only ${promised.length} tests are named`);
  const texts = new Map<string, string>();
  for (const { file, name } of promised) {
    const text = texts.get(file) ?? await Deno.readTextFile(new URL(file, root));
    texts.set(file, text);
    assert(name === "" || text.includes(`"${name}`) || text.includes(`\`${name}`), `${file} has no test '${name}'`);
  }
});
