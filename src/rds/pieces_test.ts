import { assertEquals, assertInstanceOf, assertRejects, assertStringIncludes, assertThrows } from "@std/assert";
import {
  AlreadyExists,
  Busy,
  DriverError,
  FailedPrecondition,
  InvalidArgument,
  NoSpace,
  Unsupported,
} from "../runtime/errors.ts";
import { decodeDisks, decodeFiles, decodePool, decodeRows } from "./decode.ts";
import { Interrupted, RouterOsBusy, RouterOsChanged, RouterOsError, routerOsError } from "./errors.ts";
import { decodeInventory } from "./inventory.ts";
import { MergedReads } from "./merged_reads.ts";
import { parseVersion, warningsFor } from "./server.ts";
import { Settling } from "./settling.ts";

const texts: [text: string, kind: new (...args: never[]) => Error][] = [
  ["failure: not enough space", NoSpace],
  ["failure: already have such slot", AlreadyExists],
  ["failure: file already exists", AlreadyExists],
  ["no such item", RouterOsChanged],
  ["expected item id (line 1 column 12)", RouterOsChanged],
  ["input does not match any value of type", Unsupported],
  ["bad parameter nvme-tcp-server-nqn", Unsupported],
  ["expected end of command (line 1 column 30)", Unsupported],
  ["bad command name disk (line 1 column 2)", Unsupported],
  ["invalid value for argument file-size", InvalidArgument],
  ["invalid value for argument slot", FailedPrecondition],
  ["syntax error (line 1 column 5)", InvalidArgument],
  ["not enough permissions (9)", FailedPrecondition],
  ["not allowed (9)", FailedPrecondition],
  ["failure: can not do that", RouterOsBusy],
  ["failure: could not unmount, stop using it first", RouterOsBusy],
  ["failure: in use", RouterOsBusy],
  ["failure: device busy", RouterOsBusy],
  ["interrupted", Interrupted],
];

Deno.test("routerOsError() knows each text of RouterOS that drivers have met", () => {
  for (const [text, kind] of texts) {
    const error = routerOsError(`${text}\r\n`, "test");
    assertInstanceOf(error, kind, text);
    assertStringIncludes(error.message, text);
  }
});

Deno.test("routerOsError() keeps the whole of a text that nobody knows, and makes no error of the domain of it", () => {
  const error = routerOsError("failure: the flux\r\nhas no capacitor\r\n", "test");
  assertInstanceOf(error, RouterOsError);
  assertEquals(error instanceof DriverError, false);
  assertStringIncludes(error.message, "the flux | has no capacitor");
});

Deno.test("decodeRows() takes `[]` and nothing for no rows, and nothing else", () => {
  assertEquals(decodeRows("[]"), []);
  assertEquals(decodeRows(" \r\n"), []);
  for (const text of ["null", "{}", "[1]", "[[]]", "no such item", '[{"slot":']) assertThrows(() => decodeRows(text));
});

Deno.test("decodeDisks() reads numbers in each form that RouterOS writes, and knows what is no file disk", () => {
  const rows = [
    { type: "file", slot: "a", "file-path": "/p/a.img", size: 1073741824, "nvme-tcp-export": true },
    { type: "file", slot: "b", "file-path": "p/b.img", size: "2048.000000", "nvme-tcp-export": "yes" },
    { type: "raid", slot: "pool", size: 1 },
  ];
  const disks = decodeDisks(JSON.stringify(rows));
  assertEquals(disks.map(({ slot, file, size, exported }) => ({ slot, file, size, exported })), [
    { slot: "a", file: "p/a.img", size: 1073741824n, exported: true },
    { slot: "b", file: "p/b.img", size: 2048n, exported: true },
    { slot: "pool", file: "", size: 1n, exported: false },
  ]);
});

Deno.test("decodeDisks() takes no size that it cannot read for zero, and keeps it from nobody's other rows", () => {
  for (const size of ["1.5GiB", "", "-1", null]) {
    assertEquals(decodeDisks(JSON.stringify([{ type: "file", slot: "a", size }]))[0]?.size, undefined);
  }
});

Deno.test("decodeFiles() leaves folders out, and refuses a row without a name", () => {
  const rows = [
    { name: "/p/a.img", type: ".img file", size: 5 },
    { name: "p/b.img", type: ".img file", size: "1.5GiB" },
    { name: "p/c.img", type: "directory" },
  ];
  assertEquals(decodeFiles(JSON.stringify(rows)), [{ name: "p/a.img", size: 5n }, {
    name: "p/b.img",
    size: undefined,
  }]);
  for (const row of [{ type: ".img file" }, { name: "" }]) {
    assertThrows(() => decodeFiles(JSON.stringify([row])), RouterOsError, "without a name");
  }
});

Deno.test("decodeInventory() tells files from disks, with either form of no rows, and refuses an answer that is not whole", () => {
  const [files, disks] = ['[{"name":"p/a.img"}]', '[{"slot":"b","type":"file"}]'];
  for (const none of ["[]", "", " "]) {
    const noFiles = decodeInventory(`${none}\nrds-csi-disks\n${disks}`);
    assertEquals([noFiles.files.length, noFiles.disks.length], [0, 1]);
    const noDisks = decodeInventory(`${files}\nrds-csi-disks\n${none}`);
    assertEquals([noDisks.files.length, noDisks.disks.length], [1, 0]);
  }
  assertEquals(decodeInventory("rds-csi-disks"), { files: [], disks: [] });
  for (const text of ["", "[]", `${files}\n${disks}`, `x\nrds-csi-disks\n[]`, `[]\nrds-csi-disks\nno such item`]) {
    assertThrows(() => decodeInventory(text), RouterOsError, undefined, text);
  }
});

Deno.test("decodePool() sums what is promised, and knows when there is no such pool", () => {
  const rows = [
    { type: "raid", slot: "raid1", "mount-point": "pool", size: 100, free: 90 },
    { type: "file", slot: "a", size: 30 },
    { type: "file", slot: "b", size: 25, "mount-point": "pool" },
  ];
  assertEquals(decodePool(JSON.stringify(rows), "pool"), { size: 100n, free: 90n, promised: 55n });
  assertEquals(decodePool(JSON.stringify(rows), "other"), undefined);
});

Deno.test("parseVersion() reads what RouterOS writes", () => {
  assertEquals(parseVersion("7.24.4 (stable)"), [7, 24, 4]);
  assertEquals(parseVersion("7.21 (stable)"), [7, 21, 0]);
  assertEquals(parseVersion("7.22rc1 (testing)"), [7, 22, 0]);
  assertEquals(parseVersion("bad command name get"), undefined);
});

Deno.test("warningsFor() warns of versions with known SSH holes, of a missing package, and of nothing else", () => {
  for (const version of ["7.21 (stable)", "7.23.3 (stable)", "7.24 (stable)", "7.24.1 (stable)"]) {
    assertEquals(warningsFor(version, "1").length, 1, version);
  }
  for (const version of ["7.23.4 (stable)", "7.23.9 (stable)", "7.24.2 (stable)", "7.25 (stable)"]) {
    assertEquals(warningsFor(version, "1"), [], version);
  }
  assertStringIncludes(warningsFor("7.24.4 (stable)", "0").join(), "rose-storage");
});

Deno.test("MergedReads.get() makes one query of the reads that wait, and lets none join a query that was sent", async () => {
  const asked: (readonly string[])[] = [];
  const gate = Promise.withResolvers<void>();
  const answered = Promise.withResolvers<void>();
  const reads = new MergedReads<string>(async (keys) => {
    await gate.promise;
    const sent = keys();
    asked.push(sent);
    await answered.promise;
    return sent.filter((key) => key !== "absent");
  }, (thing) => thing);
  const first = [reads.get("a"), reads.get("b"), reads.get("a"), reads.get("absent")];
  gate.resolve();
  await gate.promise;
  await Promise.resolve();
  const late = reads.get("a");
  answered.resolve();
  assertEquals(await Promise.all(first), [["a"], ["b"], ["a"], []]);
  assertEquals(await late, ["a"]);
  assertEquals(asked, [["a", "b", "absent"], ["a"]]);
});

Deno.test("MergedReads.get() gives a failure to all who waited for it, and to nobody after", async () => {
  let fail = true;
  const reads = new MergedReads<string>((keys) => {
    const sent = keys();
    return fail ? Promise.reject(new Busy("not now")) : Promise.resolve([...sent]);
  }, (thing) => thing);
  const both = [reads.get("a"), reads.get("b")];
  for (const read of both) await assertRejects(() => read, Busy);
  fail = false;
  assertEquals(await reads.get("a"), ["a"]);
});

Deno.test("Settling.settle() refuses other changes until the effect is seen or the longest time has passed", async () => {
  let now = 0;
  let state = "before";
  const settling = new Settling<string>(() => now);
  settling.expect("a", { doing: "make a", longest: 60_000, seen: (seen) => seen === "after" });
  await assertRejects(() => settling.settle("a", () => Promise.resolve(state)), Busy, "at most 60 s");
  await settling.settle("b", () => Promise.reject(new Error("nobody asks for b")));
  state = "after";
  await settling.settle("a", () => Promise.resolve(state));
  settling.expect("a", { doing: "make a", longest: 60_000, seen: () => false });
  now = 60_000;
  await settling.settle("a", () => Promise.reject(new Error("it is over: no need to look")));
});

Deno.test("Settling.settle() takes a look that fails for no proof of anything", async () => {
  const settling = new Settling<string>(() => 0);
  settling.expect("a", { doing: "make a", longest: 60_000, seen: () => true });
  await assertRejects(() => settling.settle("a", () => Promise.reject(new Busy("no answer"))), Busy, "no answer");
  await settling.settle("a", () => Promise.resolve("seen"));
});
