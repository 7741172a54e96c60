import { assert, assertEquals, assertMatch } from "@std/assert";
import fc from "fast-check";
import { Simulator } from "./simulator.ts";
import type { SimulatorOptions } from "./options.ts";

const MiB = 1024 ** 2;

async function withConsole(
  work: (say: (line: string) => Promise<string>, folder: string) => Promise<void>,
  options: Partial<SimulatorOptions> = {},
): Promise<void> {
  const folder = await Deno.makeTempDir();
  const simulator = new Simulator({
    poolFolder: `${folder}/pool`,
    mountPoint: "pool",
    poolSize: 1024 * MiB,
    ...options,
  });
  try {
    await work(async (line) => (await simulator.run(line)).replace(/\r\n$/, ""), folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

function add(slot: string, more = ""): string {
  return `/disk/add type=file slot="${slot}" file-path="/pool/${slot}.img" file-size=${MiB} ${more}`;
}

function json(where: string): string {
  return `:put [:serialize to=json value=[/disk/print detail as-value where ${where}] options=json.no-string-conversion]`;
}

/** Before each: disks `a` (1 MiB, exported, commented "5") and `b` (2 MiB), and the pool. */
const answers: [line: string, answer: string][] = [
  [':put "a"; :put b', "a\r\nb"],
  [":put (1 + 2 * 3)", "7"],
  [":put (7-2)", "5"],
  [':put ("a" . 1)', "a1"],
  [":put (!(1 = 2) and 3 > 2 or false)", "true"],
  [":put (1G = 1073741824 && 1 != 2)", "true"],
  [':local x "v"; :put "<$x|$nobody|\\$x>"', "<v||$x>"],
  [":local x 1; :if ($x = 1) do={:put yes; :set x 2} else={:put no}; :put $x", "yes\r\n2"],
  [":if (1 = 2) do={:put yes} else={:put no}", "no"],
  [":foreach i in=[/disk/find where type=file] do={:put [/disk/get $i slot]}", "a\r\nb"],
  [':do {:error "bad"; :put never} on-error={:put caught}; :put on', "caught\r\non"],
  [':onerror e in={:error "bad"} do={:put ("err " . $e)}', "err bad"],
  [':put first; :error "bad"; :put never', "first\r\nbad"],
  ['/disk/set [find slot="a"] comment=x; /disk/remove [find slot="nobody"]', ""],
  ["/disk/remove *FF; :put never", "no such item"],
  ["/disk/remove 0; :put never", "no such item"],
  ["/disk/remove", "missing value(s) of argument(s) numbers"],
  ["/disk/print as-value", ""],
  [":put [/disk/print count-only where type=file]", "2"],
  ["/disk print count-only", "3"],
  [':put [:len [/disk/find where slot~"^(a|b)\\$"]]', "2"],
  [':put [:len [/disk/find where slot="a" or slot="b" and size>1M]]', "2"],
  [':put [:len [/disk/find where (slot="a" or slot="b") and size>1048576]]', "1"],
  [":put [:len [/disk/find where slot=a type=file]]", "1"],
  [":put [:len [/disk/find where !nvme-tcp-export and type!=raid]]", "1"],
  [":put [:len [/disk/find where nvme-tcp-export=yes]]", "1"],
  [":put [:len [/disk/find where comment=5]]", "1"],
  [':put [:len [/disk/find where comment=""]]', "2"],
  [":put [:len [/disk/find where status=ok]]", "bad parameter status"],
  [':put [:len [/disk/find where slot~"(?:a)"]]', "invalid value for argument regexp"],
  [':put [:len [/disk/find where slot~"\\\\d"]]', "invalid value for argument regexp"],
  [':put [:len [/disk/find where slot~"[[:alpha:]]"]]', "3"],
  [":put [:len [/disk/find where free<5 or free>=5]]", "1"],
  [":put [/disk/get [find slot=a] size]", "1048576"],
  [":put [/disk/get a value-name=size]", "1048576"],
  ["/disk/get a nothing", "input does not match any value of value-name"],
  [":put [/system/resource/get version]", "7.24.4 (stable)"],
  [':put [:len [/system/package/find where name="rose-storage"]]', "1"],
  [json('slot="nobody"'), "[]"],
  [
    ":put [:serialize to=json value=[/disk/print as-value proplist=slot,size where slot=b]]",
    '[{"slot":"b","size":2097152}]',
  ],
  [":put [:serialize to=json value=[/disk/print as-value proplist=comment where slot=a]]", '[{"comment":5}]'],
  [
    ":put [:serialize to=json value=[/disk/print as-value proplist=comment where slot=a] options=json.no-string-conversion]",
    '[{"comment":"5"}]',
  ],
  [":put [:serialize to=dsv value=1]", "input does not match any value of to"],
  [":if (5) do={}", "conditional not boolean"],
];

Deno.test("the console answers as RouterOS does: values, conditions, errors on standard output, silence of set", async () => {
  await withConsole(async (say) => {
    for (const [line, answer] of answers) {
      for (const slot of ["a", "b"]) {
        await say(`/disk/remove [find slot=${slot}]; /file/remove [find name~"${slot}.img"]`);
      }
      await say(add("a", "nvme-tcp-export=yes comment=5"));
      await say(`/disk/add type=file slot=b file-path=/pool/b.img file-size=2M`);
      assertEquals(await say(line), answer, line);
    }
  });
});

Deno.test("a variable named like a property shadows it in a condition", async () => {
  await withConsole(async (say) => {
    await say(add("a"));
    assertEquals(
      await say(':local slot "a"; :put [:len [/disk/find where slot=$slot]]'),
      "2",
      "true for the pool's row too",
    );
    assertEquals(await say(':local x "a"; :put [:len [/disk/find where slot=$x]]'), "1");
  });
});

Deno.test("an error stops the line where it happens, and a mistake of form before the line has begun", async () => {
  await withConsole(async (say) => {
    assertEquals(await say(`${add("a")}; /disk/remove *FF; ${add("b")}`), "no such item");
    assertEquals(await say(":put [:len [/disk/find where type=file]]"), "1");
    assertMatch(await say(`${add("c")}; /disk/frobnicate`), /^bad command name frobnicate/);
    assertEquals(await say(":put [:len [/disk/find where type=file]]"), "1");
  });
});

Deno.test("a line of JSON ends in CRLF and holds whole numbers and real booleans", async () => {
  await withConsole(async (say) => {
    await say(add("a", "mount-filesystem=no"));
    const [row] = JSON.parse(await say(json("slot=a")));
    assertEquals([row.size, row["mount-filesystem"], row["nvme-tcp-server-port"], row["file-path"]], [
      MiB,
      false,
      4420,
      "/pool/a.img",
    ]);
  });
  await withConsole(async (say) => {
    await say(add("a"));
    assertMatch(await say(json("slot=a")), /"size":1048576\.000000/);
    assertEquals(await say(json("slot=nobody")), "");
  }, { guesses: { jsonDecimals: true, noRows: "nothing" } });
});

Deno.test("a user without the policy may not", async () => {
  await withConsole(async (say) => {
    assertEquals(await say(add("a")), "not enough permissions (9)");
    assertEquals(await say(":put [:len [/disk/find]]"), "1");
  }, { policies: ["ssh", "read"] });
});

const valid = [
  add("x", 'nvme-tcp-export=yes comment="\\$\\"\\\\"'),
  json('slot="x" or (type=file and file-path~"^/?pool/")'),
  `:if ([:len [/disk/find where slot="x"]] = 1) do={/disk/set [/disk/find where slot="x"] file-size=2M} else={:put "$x"}`,
  ':onerror e in={/disk/remove *1} do={:put ("err " . $e)}; :foreach i in=[/file/find] do={:put [/file/get $i name]}',
  "/disk/btrfs/subvolume/add fs=pool name=s; /disk/btrfs/subvolume/remove [find name=s]; /disk print detail",
];

Deno.test("whatever text it is sent, the console answers or reports an error, and goes on", async () => {
  const fragment = fc.constantFrom(
    ...valid.flatMap((line) => line.match(/\w+|[^\w]/g) ?? []),
    "/disk ",
    "[find ",
    "where ",
    '"',
    "\\",
    "$",
    "{",
    "}",
    "\0",
    "\n",
    "é",
    "😀",
  );
  const mutated = fc.tuple(fc.constantFrom(...valid), fc.nat(), fc.nat(8), fc.array(fragment, { maxLength: 4 }))
    .map(([line, at, length, pieces]) => {
      const from = at % (line.length + 1);
      return line.slice(0, from) + pieces.join("") + line.slice(from + length);
    });
  const anything = fc.oneof(
    fc.string(),
    fc.string({ unit: "binary" }),
    fc.array(fragment).map((all) => all.join("")),
    mutated,
    mutated,
  );
  await withConsole(async (say, folder) => {
    await fc.assert(
      fc.asyncProperty(anything, async (line) => {
        const answer = await say(line);
        assert(!answer.includes("internal error"), `${line}\n${answer}`);
        assertEquals(await say(':put "alive"'), "alive");
      }),
      { numRuns: 800 },
    );
    assertEquals([...Deno.readDirSync(folder)].map(({ name }) => name), ["pool"]);
  });
});

Deno.test("a line that would never end or fill the memory is broken off", async () => {
  await withConsole(async (say) => {
    const double = ":set x ($x . $x);".repeat(40);
    assertEquals(await say(`:local x "0123456789"; ${double} :put done`), "failure: out of memory");
    await say(Array.from({ length: 10 }, (_, n) => add(`d${n}`)).join(";"));
    const loops = 6;
    const nested = ":foreach i in=[/disk/find] do={".repeat(loops) + ":len 1" + "}".repeat(loops);
    assertEquals(await say(nested), "interrupted");
    const long = `:put (${Array(9000).fill("1").join("+")})`;
    assertMatch(await say(long), /^syntax error/);
    const conditions = Array(2000).fill('slot="a"').join(" or ");
    assertEquals(await say(`:put [:len [/disk/find where ${conditions}]]`), "0", "reads of many volumes come as one");
  });
});
