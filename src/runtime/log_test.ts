import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { LogRecord } from "@std/log";
import { formatJson, formatText, hideFromLog } from "./log.ts";

function record(msg: string, fields: Record<string, unknown>): LogRecord {
  return new LogRecord({ msg, args: [fields], level: 20, loggerName: "default" });
}

const both = [formatText, formatJson];

Deno.test("the log shows no planted secret, wherever it stands", () => {
  const planted = "s3cr3t-planted-key";
  hideFromLog(`-----BEGIN KEY-----\n${planted}\n-----END KEY-----`);
  for (const format of both) {
    const line = format(
      record(`failed with ${planted}`, { error: new Error(`at ${planted}`), deep: [{ a: planted }] }),
    );
    assert(!line.includes(planted), line);
    assertStringIncludes(line, "(hidden)");
  }
});

Deno.test("the log hides fields that are named like a secret, at any depth", () => {
  for (const format of both) {
    const line = format(record("call", { request: { secrets: { user: "u1" }, privateKey: "k1" }, password: "p1" }));
    for (const value of ["u1", "k1", "p1"]) assert(!line.includes(value), line);
  }
});

Deno.test("formatText() and formatJson() make one line, whatever the text", () => {
  for (const format of both) assertEquals(format(record("two\r\nlines", { a: "x\ny" })).includes("\n"), false);
});

Deno.test("formatJson() gives time, level, sentence and fields", () => {
  const { time, ...rest } = JSON.parse(
    formatJson(record("done", { volumeId: "pvc-1", size: 5n, error: new Error("no") })),
  );
  assert(!Number.isNaN(Date.parse(time)));
  assertEquals(rest, { level: "INFO", msg: "done", volumeId: "pvc-1", size: "5", error: "no" });
});
