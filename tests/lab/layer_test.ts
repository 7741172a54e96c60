import { assertEquals, assertStringIncludes } from "@std/assert";
import { type Layer, type Result, runLayer, summary } from "./layer.ts";

function result(more: Partial<Result>): Result {
  return { name: "unit", passed: 1, failed: 0, skipped: [], seconds: 1, ...more };
}

function layer(more: Partial<Layer>): Layer {
  return {
    name: "unit",
    about: "",
    needs: () => Promise.resolve(undefined),
    run: () => Promise.resolve({ passed: 3, failed: 0, skipped: [] }),
    ...more,
  };
}

function lastLine(text: string): string | undefined {
  return text.trimEnd().split("\n").at(-1);
}

Deno.test("summary() adds the layers up in a last line of its own", () => {
  const { text, ok } = summary([result({ passed: 12 }), result({ name: "sanity", passed: 3 })], false);
  assertEquals([lastLine(text), ok], ["15 passed, 0 failed", true]);
});

Deno.test("summary() names what was skipped and why", () => {
  const skipped = "Go is missing: install it";
  const { text, ok } = summary([result({}), result({ passed: 0, skipped: [skipped], missing: skipped })], false);
  assertStringIncludes(text, skipped);
  assertStringIncludes(text, "did not run");
  assertEquals([lastLine(text), ok], ["1 passed, 0 failed, 1 skipped", true]);
});

Deno.test("summary() counts a skip as a failure when everything is required", () => {
  const { text, ok } = summary([result({ skipped: ["one test: no loop devices"] })], true);
  assertEquals([lastLine(text), ok], ["1 passed, 1 failed, 1 skipped", false]);
});

Deno.test("summary() is no success when nothing was tested", () => {
  assertEquals(summary([result({ passed: 0 })], false).ok, false);
  assertEquals(summary([], false).ok, false);
});

Deno.test("runLayer() does not run a layer that lacks something", async () => {
  const ran: string[] = [];
  const lacking = layer({
    needs: () => Promise.resolve("no Go"),
    run: () => {
      ran.push("ran");
      return Promise.resolve({ passed: 1, failed: 0, skipped: [] });
    },
  });
  const { missing, skipped } = await runLayer(lacking);
  assertEquals({ missing, skipped, ran }, { missing: "no Go", skipped: ["no Go"], ran: [] });
});

Deno.test("runLayer() counts a layer that throws as failed", async () => {
  const { passed, failed } = await runLayer(
    layer({ run: () => Promise.reject(new Error("this error belongs to a test")) }),
  );
  assertEquals({ passed, failed }, { passed: 0, failed: 1 });
});
