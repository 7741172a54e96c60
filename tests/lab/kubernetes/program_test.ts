import { assertStringIncludes, assertThrows } from "@std/assert";
import { Deadline, poll } from "../../../src/runtime/deadline.ts";
import { Program } from "./program.ts";

function bash(script: string): Program {
  return new Program({ name: "a script", path: "bash", args: ["-c", script], folder: "/" });
}

async function until(condition: () => boolean, what: string): Promise<void> {
  using deadline = new Deadline(10_000, what);
  await poll(() => condition() || undefined, { signal: deadline.signal });
}

Deno.test("Program.stop() ends a program that ignores TERM", async () => {
  await using program = bash("trap '' TERM; echo up; while :; do sleep 0.05; done");
  await until(() => program.output === "up", "its first line");
  await program.stop(10);
  assertThrows(() => program.assertRunning(), Error, "a script ended with status");
});

Deno.test("Program.assertRunning() says how a program ended and what it wrote", async () => {
  await using program = bash("echo 'bad flag' >&2; exit 3");
  await until(() => program.output !== "", "its output");
  await program.stop();
  const error = assertThrows(() => program.assertRunning(), Error, "a script ended with status 3");
  assertStringIncludes(String(error), "bad flag");
});
