import { assertEquals, assertInstanceOf, assertStringIncludes, assertThrows } from "@std/assert";
import fc from "fast-check";
import { InvalidArgument } from "../runtime/errors.ts";
import { parse } from "../simulator/parser.ts";
import { expressionsOf } from "../simulator/syntax.ts";
import { escapeRegExp, join, ros, Script, SCRIPT_LIMIT, VALUE_LIMIT } from "./script.ts";

/** The quoted values that the simulator's parser sees, in their order. */
function valuesIn(script: Script): string[] {
  return expressionsOf(parse(script.text)).flatMap((seen) => seen.kind === "text" && seen.quoted ? [seen.text] : []);
}

const printable = fc.string({
  unit: fc.integer({ min: 0x20, max: 0x7e }).map((code) => String.fromCharCode(code)),
  maxLength: VALUE_LIMIT,
});
/** What somebody would try who wants a word of his own in the script. */
const hostile = fc.constantFrom(
  '"',
  '" or slot~".',
  "$x",
  "[/system reset]",
  "\\",
  '\\"',
  "}; :put 1; {",
  "; /disk remove 0",
  "$(:put 1)",
);
const text = fc.oneof(
  printable,
  fc.array(fc.oneof(printable, hostile), { maxLength: 6 }).map((parts) => parts.join("").slice(0, VALUE_LIMIT)),
);

Deno.test("ros`` gives the console exactly one value for each value, whatever is in it", () => {
  fc.assert(
    fc.property(text, text, text, (slot, file, comment) => {
      const script = ros`/disk/add type=file slot=${slot} file-path=${file} comment=${comment}`;
      assertEquals(valuesIn(script), [slot, file, comment]);
      assertEquals(parse(script.text).length, 1);
    }),
    { numRuns: 500 },
  );
});

Deno.test("ros`` inside a condition adds no statement and no operator, whatever the value", () => {
  fc.assert(
    fc.property(text, text, (slot, nqn) => {
      const one = ros`:put [:len [/disk/find where slot=${slot} and nvme-tcp-server-nqn~${
        escapeRegExp(nqn).slice(0, VALUE_LIMIT)
      }]]`;
      const plain = ros`:put [:len [/disk/find where slot=${"a"} and nvme-tcp-server-nqn~${"b"}]]`;
      const shape = (script: Script) =>
        JSON.stringify(parse(script.text)).replaceAll(/"text":"(?:[^"\\]|\\.)*"/g, '""');
      return valuesIn(one)[0] === slot && shape(one).length === shape(plain).length;
    }),
    { numRuns: 500 },
  );
});

Deno.test("ros`` refuses control characters and whatever is not ASCII, before anything is sent", () => {
  const strange = fc.string({ unit: "binary", minLength: 1 }).filter((value) => /[^\x20-\x7e]/.test(value));
  fc.assert(fc.property(strange, (value) => {
    assertInstanceOf(assertThrows(() => ros`:put ${value}`), InvalidArgument);
  }));
  assertThrows(() => ros`:put ${"a\nb"}`, InvalidArgument, "U+000A at position 2");
});

Deno.test("ros`` refuses values and scripts over their limits, and numbers that are none", () => {
  assertEquals(valuesIn(ros`:put ${"x".repeat(VALUE_LIMIT)}`).length, 1);
  assertThrows(() => ros`:put ${"x".repeat(VALUE_LIMIT + 1)}`, InvalidArgument, "over the limit");
  const many = join(
    Array.from({ length: SCRIPT_LIMIT / VALUE_LIMIT + 1 }, () => ros`slot=${"x".repeat(VALUE_LIMIT)}`),
    " or ",
  );
  assertThrows(() => ros`:put [/disk/find where ${many}]`, InvalidArgument, "ask for less");
  for (const number of [1.5, NaN, Infinity, 2 ** 60]) assertThrows(() => ros`:put ${number}`, InvalidArgument);
});

Deno.test("ros`` writes numbers, sizes and booleans as RouterOS has them", () => {
  assertEquals(ros`a=${5} b=${1n << 40n} c=${true} d=${false}`.text, "a=5 b=1099511627776 c=yes d=no");
});

Deno.test("Script cannot be made from text without the template", () => {
  // deno-lint-ignore no-explicit-any -- what a careless caller would do
  assertThrows(() => new (Script as any)(undefined, "/system reset-configuration"), TypeError);
});

Deno.test("escapeRegExp() matches the text itself and nothing else, in the simulator's POSIX expressions too", async () => {
  const { startSimulator } = await import("../simulator/simulator.ts");
  const folder = await Deno.makeTempDir();
  const simulator = await startSimulator({ poolFolder: folder });
  try {
    const nqn = "nqn.2000-02.com.mikrotik:pvc-(a+b)*[c]{1}^$|?\\";
    await simulator.run(
      ros`/disk/add type=file slot=${"a"} file-path=${"/storage-pool/a.img"} file-size=${1048576} mount-filesystem=no nvme-tcp-export=yes nvme-tcp-server-nqn=${nqn}`
        .text,
    );
    const count = (pattern: string) =>
      simulator.run(ros`:put [:len [/disk/find where nvme-tcp-server-nqn~${pattern}]]`.text);
    assertStringIncludes(await count(`^${escapeRegExp(nqn)}$`), "1");
    assertStringIncludes(await count(`^${escapeRegExp(nqn.replace("2000-02.", "2000-02x"))}$`), "0");
  } finally {
    await simulator.close();
    await Deno.remove(folder, { recursive: true });
  }
});
