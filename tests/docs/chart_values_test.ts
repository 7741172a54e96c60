import { assertEquals, assertStringIncludes } from "@std/assert";
import { chartValuesPage, unexplained, valuesOf } from "./chart_values.ts";

const values = `
# Head of the file.

# What it is.
first: 1
block:
  # Inside, over
  # two lines.
  inner: [a]
  bare: x
# A list.
list:
  # An item.
  - name: n
    deeper: y
# A block as a whole.
whole:
  one: 1
after: {}
`;

Deno.test("valuesOf() finds each value with the comment over it, and leaves the items of lists alone", () => {
  assertEquals(valuesOf(values), [
    { path: "first", default: "1", about: "What it is." },
    { path: "block.inner", default: '["a"]', about: "Inside, over two lines." },
    { path: "list", default: '[{"name":"n","deeper":"y"}]', about: "A list." },
    { path: "whole", default: '{"one":1}', about: "A block as a whole." },
  ]);
});

Deno.test("unexplained() names what no comment explains", () => {
  assertEquals(unexplained(values), ["block.bare", "after"]);
});

Deno.test("every value of the chart is explained", async () => {
  const path = new URL("../../deploy/chart/values.yaml", import.meta.url);
  assertEquals(unexplained(await Deno.readTextFile(path)), []);
});

Deno.test("chartValuesPage() shows no default of a block whose values are listed", () => {
  const page = chartValuesPage("# All.\nblock:\n  # One.\n  one: 1\n");
  assertStringIncludes(page, "| `block` |  | All. |\n| `block.one` | `1` | One. |\n");
});
