import { assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import { parse } from "./parser.ts";
import { commandsOf, ConsoleError, expressionsOf } from "./syntax.ts";

function quotedIn(line: string): string[] {
  return expressionsOf(parse(line)).flatMap((one) => one.kind === "text" && one.quoted ? [one.text] : []);
}

/** By the console's rules for texts. */
function quote(text: string): string {
  return `"${text.replaceAll(/[\\"$]/g, "\\$&")}"`;
}

const mistakes: [line: string, text: string][] = [
  ["/foo", "bad command name foo (line 1 column 2)"],
  [":foo", "bad command name foo (line 1 column 2)"],
  ["/disk/foo", "bad command name foo (line 1 column 7)"],
  ["/disk foo", "bad command name foo (line 1 column 7)"],
  [":put 1; /disk/snapshot", "bad command name snapshot (line 1 column 15)"],
  ["/disk/constructor", "bad command name constructor (line 1 column 7)"],
  ["/disk/add status=1", "expected end of command (line 1 column 11)"],
  ["/disk/set 1 2 slot=x", "expected end of command (line 1 column 13)"],
  ['/disk/add slot="a"comment=x', "expected end of command (line 1 column 19)"],
  ['/disk/add slot="a" slot="b"', "syntax error (line 1 column 20)"],
  ['/disk/find where slot="a""b"', "expected end of command (line 1 column 26)"],
  ['/disk/find where slot="a" "b"', "expected end of command (line 1 column 27)"],
  ["/disk/find where slot=a=b", "expected end of command (line 1 column 24)"],
  ["/disk/find where slot=/a", "syntax error (line 1 column 23)"],
  ['/disk/find where slot="a" and', "syntax error (line 1 column 30)"],
  [':put "a', "syntax error (line 1 column 8)"],
  [':put "a\\q"', "syntax error (line 1 column 9)"],
  [':put "costs 5$"', "syntax error (line 1 column 15)"],
  [":put [:len 1", "syntax error (line 1 column 13)"],
  [":put 1]", "syntax error (line 1 column 7)"],
  [":if (1 = 1 do={}", "syntax error (line 1 column 12)"],
  [":put 1\n:put 2", "syntax error (line 1 column 7)"],
  [":put 1\r", "syntax error (line 1 column 7)"],
  [`:put ${"(".repeat(5000)}`, "syntax error (line 1 column 47)"],
  [`:put ${"!".repeat(5000)}`, "syntax error (line 1 column 6)"],
];

Deno.test("parse() finds mistakes of form before anything runs, and says where they are", () => {
  for (const [line, text] of mistakes) {
    const error = assertThrows(() => parse(line), ConsoleError);
    assertEquals((error as ConsoleError).message, text, line.slice(0, 60));
  }
});

Deno.test("parse() takes both spellings of a command, and menus that stand in an earlier path", () => {
  for (const line of ["/disk/add slot=a", "/disk add slot=a", "disk add slot=a", "/disk; add slot=a"]) {
    assertEquals(commandsOf(parse(line)), ["disk add"], line);
  }
  assertEquals(commandsOf(parse("/disk remove [find slot=a]; /disk/btrfs/subvolume/print")), [
    "disk remove",
    "disk/btrfs/subvolume print",
    "disk find",
  ]);
});

Deno.test("parse() reads escapes, and expansions only where a dollar is not escaped", () => {
  assertEquals(quotedIn(':put "\\"\\\\\\$x\\n\\t\\_\\41"'), ['"\\$x\n\t A']);
  assertEquals(expressionsOf(parse(':put "a$x$[:len 1]$(2)"')).map(({ kind }) => kind), [
    "expansion",
    "text",
    "variable",
    "text",
    "substitution",
    "text",
    "text",
    "text",
    "text",
  ]);
});

Deno.test("parse() sees exactly one value for each text that is quoted by the rules, whatever is in it", () => {
  const text = fc.string({
    unit: fc.oneof(fc.constantFrom(...'"\\$[](){};=~ aA0/:.\t'), fc.string({ minLength: 1, maxLength: 1 })),
  })
    .filter((one) => !/[\r\n\0]/.test(one));
  fc.assert(fc.property(text, text, text, (slot, comment, pattern) => {
    const line = `/disk/add slot=${quote(slot)} comment=${quote(comment)}; :put [:len [find where slot~${
      quote(pattern)
    }]]`
      .replace("[find", "[/disk/find");
    assertEquals(quotedIn(line), [slot, comment, pattern]);
    assertEquals(commandsOf(parse(line)), ["disk add", ":put", ":len", "disk find"]);
  }));
});
