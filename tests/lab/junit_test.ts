import { assertEquals, assertThrows } from "@std/assert";
import { parseJunit } from "./junit.ts";

Deno.test("parseJunit() reads what deno test writes", () => {
  const xml = `<?xml version="1.0" encoding="UTF-8"?>
<testsuites name="deno test" tests="3" failures="1" errors="0" time="0.069">
    <testsuite name="./a_test.ts" tests="3" disabled="1" errors="0" failures="1">
        <testcase name="a &lt; b" classname="./a_test.ts" time="0.000" line="1" col="6">
        </testcase>
        <testcase name="left out" classname="./a_test.ts" time="0.000" line="2" col="6">
            <skipped/>
        </testcase>
        <testcase name="bad" classname="./a_test.ts" time="0.008" line="3" col="6">
            <failure message="Uncaught Error: x &lt;testcase y">Error: x &lt;testcase y</failure>
        </testcase>
    </testsuite>
</testsuites>`;
  assertEquals(parseJunit(xml), [
    { name: "a < b", state: "passed", reason: "" },
    { name: "left out", state: "skipped", reason: "" },
    { name: "bad", state: "failed", reason: "" },
  ]);
});

Deno.test("parseJunit() reads what Ginkgo writes", () => {
  const xml = `<testsuites tests="2"><testsuite name="CSI" tests="2">
    <testcase name="[It] Node &#34;works&#34;" classname="CSI" status="passed" time="0.1"><system-err>&gt; Enter</system-err></testcase>
    <testcase name="[It] Snapshots" classname="CSI" status="skipped" time="0"><skipped message="skipped - not supported"></skipped></testcase>
  </testsuite></testsuites>`;
  assertEquals(parseJunit(xml), [
    { name: '[It] Node "works"', state: "passed", reason: "" },
    { name: "[It] Snapshots", state: "skipped", reason: "skipped - not supported" },
  ]);
});

Deno.test("parseJunit() refuses what is no JUnit file, instead of counting nothing", () => {
  assertThrows(() => parseJunit(""), Error, "no JUnit file");
});
