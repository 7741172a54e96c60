import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { type Check, ok, type Outcome, runChecks, worst } from "./check.ts";
import { found } from "./meanings.ts";
import { exitStatus, jsonReport, schema, textReport } from "./report.ts";

const signal = new AbortController().signal;

function check(name: string, run: Check["run"], limit = 1000): Check {
  return { name, about: name, limit, run };
}

Deno.test("runChecks() keeps the order, and makes a finding of a check that fails or does not answer", async () => {
  const outcomes = await runChecks([
    check("hangs", () => new Promise(() => {}), 20),
    check("fails", () => Promise.reject(new Error("the disk is on fire"))),
    check("throws", () => {
      throw new Error("at once");
    }),
    check("well", () => Promise.resolve([ok("fine")])),
  ], signal);
  assertEquals(outcomes.map(({ name, status }) => `${name} ${status}`), [
    ...["hangs unknown", "fails unknown", "throws unknown", "well ok"],
  ]);
  assertMatch(outcomes[0]?.findings[0]?.detail ?? "", /no answer within 0.02 s from the check 'hangs'/);
  assertEquals(outcomes[1]?.findings[0]?.detail, "the disk is on fire");
});

Deno.test("worst() takes what could not be looked at for worse than well, and better than a warning", () => {
  assertEquals(worst([]), "ok");
  assertEquals(worst(["ok", "unknown"]), "unknown");
  assertEquals(worst(["warning", "unknown", "ok"]), "warning");
  assertEquals(worst(["warning", "error"]), "error");
});

function report(...outcomes: Outcome[]) {
  return { subject: "node", version: "1.2.3", name: "node-1", time: new Date(0), outcomes };
}
const well: Outcome = { name: "kernel", status: "ok", milliseconds: 3, findings: [ok("Linux 6.1")] };
const open = found("breaker-open", "2 open");
const warning: Outcome = { name: "breakers", status: "warning", milliseconds: 1, findings: [open] };
const lost = { status: "unknown", code: "not-known", detail: "Kubernetes does not answer" } as const;
const unknowns: Outcome[] = ["node", "attachments"].map((name) => {
  return { name, status: "unknown", milliseconds: 9, findings: [lost] };
});

Deno.test("exitStatus() is 0 when all is well, 2 with an error, 1 with anything else", () => {
  assertEquals(exitStatus(report(well)), 0);
  assertEquals(exitStatus(report(well, warning)), 1);
  assertEquals(exitStatus(report(well, ...unknowns)), 1);
  assertEquals(exitStatus(report(warning, { ...well, status: "error" })), 2);
});

Deno.test("textReport() has a line a check, and below what is wrong and what to do, the same thing once", () => {
  const text = textReport(report(well, warning, ...unknowns), { colour: false });
  const lines = text.split("\n");
  assertEquals(lines.slice(2, 6), [
    "ok       kernel       Linux 6.1",
    "warning  breakers     2 open",
    "unknown  node         Kubernetes does not answer",
    "unknown  attachments  Kubernetes does not answer",
  ]);
  assertStringIncludes(text, "warning breakers/breaker-open: 2 open\n  → the events of the claims say what failed");
  assertStringIncludes(text, "unknown node, attachments/not-known: Kubernetes does not answer\n");
  assertMatch(text, /0 errors, 1 warnings, 2 things that could not be looked at\.\n$/);
  assertEquals(text.includes("\x1b["), false);
  assertStringIncludes(textReport(report(warning), { colour: true }), "\x1b[33mwarning");
});

Deno.test("jsonReport() has the schema's name, the whole status, and every finding with code, detail and remedy", () => {
  const json = JSON.parse(jsonReport(report(well, warning)));
  assertEquals({ ...json, checks: json.checks.length }, {
    ...{ schema, subject: "node", name: "node-1", version: "1.2.3", time: "1970-01-01T00:00:00.000Z" },
    ...{ status: "warning", checks: 2 },
  });
  assertEquals(json.checks[1].findings, [{
    status: "warning",
    code: "breaker-open",
    detail: "2 open",
    remedy: open.remedy,
  }]);
});
