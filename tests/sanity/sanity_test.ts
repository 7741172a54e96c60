import { assertEquals } from "@std/assert";
import type { Case } from "../lab/junit.ts";
import { count } from "./sanity.ts";

const passed: Case = { name: "[It] Node Service should work", state: "passed", reason: "" };
const failed: Case = { name: "[It] Node Service should fail", state: "failed", reason: "" };

function left(reason: string): Case {
  return { name: "[It] Controller Service", state: "skipped", reason };
}

Deno.test("count() takes specs of features that the driver does not have as nothing, and any other skip as a skip", () => {
  const cases = [
    passed,
    left("skipped - CreateSnapshot not supported"),
    left("skipped - NodeExpandVolume not supported"),
  ];
  assertEquals(count(cases, 0, "mount"), {
    passed: 1,
    failed: 0,
    skipped: ["csi-sanity (mount) [It] Controller Service: skipped - NodeExpandVolume not supported"],
  });
});

Deno.test("count() counts failures, of set-up and tear-down too", () => {
  const teardown: Case = { name: "[AfterSuite]", state: "failed", reason: "" };
  assertEquals(count([passed, failed, teardown], 1, "mount").failed, 2);
});

Deno.test("count() counts a run that ended badly or tested nothing as failed", () => {
  assertEquals(count([passed], 1, "mount").failed, 1);
  assertEquals(count([], 0, "mount").failed, 1);
});
