/**
 * Runs layers of tests: all that must pass, or those named. `RDS_CSI_REQUIRE=all` makes whatever is skipped a failure; `--soak` goes on
 * for much longer where tests are random.
 * @module
 */
import { print, type Result, runLayer, summary } from "./lab/layer.ts";
import { layers, named } from "./layers.ts";

const wanted = new Set(Deno.args.filter((arg) => arg !== "--soak"));
if (Deno.args.includes("--soak")) Deno.env.set("RDS_CSI_SOAK", "1");
const all = [...layers, ...named];
const unknown = [...wanted].filter((name) => !all.some((layer) => layer.name === name));
if (unknown.length > 0) {
  const names = all.map(({ name }) => name).join(", ");
  print(`there is no layer ${unknown.join(", ")}: there are ${names}; --soak makes random tests longer\n`);
  Deno.exit(2);
}

const results: Result[] = [];
for (const layer of wanted.size === 0 ? layers : all.filter(({ name }) => wanted.has(name))) {
  print(`\n=== ${layer.name}: ${layer.about}\n`);
  results.push(await runLayer(layer));
  const missing = results.at(-1)?.missing;
  if (missing) print(`SKIPPED: ${missing}\n`);
}
const { text, ok } = summary(results, Deno.env.get("RDS_CSI_REQUIRE") === "all");
print(text);
Deno.exit(ok ? 0 : 1);
