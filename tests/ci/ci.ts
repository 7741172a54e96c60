/**
 * All that must hold before a change is taken: format, lint, types, every layer of tests as the README starts them, the
 * compiled and the bundled program. The last line is `N passed, N failed`.
 * @module
 */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { labFolder } from "../lab/folder.ts";
import { print } from "../lab/layer.ts";
import { startProcess } from "../lab/process.ts";
import { fromFileUrl, project } from "../lab/project.ts";
import { bundle, compile, deno } from "../../deploy/image/build.ts";

const TEST_COMMAND = `npx -y deno@${Deno.version.deno} task test`;
const sum = { passed: 0, failed: 0 };

async function check(name: string, run: () => Promise<unknown>): Promise<void> {
  const started = performance.now();
  try {
    await run();
    sum.passed++;
    print(`ok      ${name} (${Math.round((performance.now() - started) / 1000)} s)\n`);
  } catch (error) {
    sum.failed++;
    print(`FAILED  ${name}\n${error instanceof Error ? error.message : error}\n`);
  }
}

/** The README's commands name the Deno that runs this: `.ci/run` and README.md change together. */
async function checkReadme(): Promise<void> {
  const readme = await Deno.readTextFile(new URL("README.md", project));
  assert(readme.includes(TEST_COMMAND), `README.md does not have the command '${TEST_COMMAND}'`);
  const versions = new Set(readme.match(/\bdeno@[\d.]*\d/g));
  assertEquals([...versions], [`deno@${Deno.version.deno}`]);
}

/** Runs a command of the tests, shows what it writes, and adds its last line up. */
async function tests(name: string, command: readonly string[], env: Record<string, string> = {}): Promise<void> {
  print(`\n--- ${name}: ${command.join(" ")}\n`);
  const [program = "", ...args] = command;
  const child = new Deno.Command(program, {
    args,
    cwd: fromFileUrl(project),
    env: { NO_COLOR: "1", RDS_CSI_REQUIRE: "all", ...env },
    stdin: "null",
    stdout: "piped",
  }).spawn();
  let text = "";
  for await (const part of child.stdout.pipeThrough(new TextDecoderStream())) {
    print(part);
    text += part;
  }
  const [, passed, failed] = /^(\d+) passed, (\d+) failed/.exec(text.trimEnd().split("\n").at(-1) ?? "") ?? [];
  sum.passed += Number(passed ?? 0);
  sum.failed += Number(failed ?? 0);
  if (failed === undefined || ((await child.status).success !== (failed === "0"))) sum.failed++;
}

/** The bundled program, in an empty folder, with nothing but its permission sets. */
async function checkBundle(program: string, folder: string): Promise<void> {
  const empty = `${folder}/empty`;
  await Deno.mkdir(empty);
  const run = ["run", "--no-prompt", `--config=${fromFileUrl(new URL("deno.json", project))}`, "-P=node", program];
  assertMatch(await deno([...run, "--version"], { cwd: empty }), /^rds-csi \d/);
  assertMatch(await deno([...run, "--help"], { cwd: empty }), /--mode=controller/);
  Deno.env.set("RDS_CSI_PROGRAM", program);
  const settings = { listen: "127.0.0.1:0", pool: `${empty}/pool` };
  const simulator = await startProcess({ mode: "simulator", folder: empty, settings });
  assertEquals((await simulator.stop()).code, 0, simulator.output);
}

await check("format", () => deno(["fmt", "--check", "--quiet"]));
await check("lint", () => deno(["lint", "--quiet"]));
await check("types", () => deno(["check", "--quiet", "main.ts", "src", "tests", "proto"]));
await check("README's commands", checkReadme);
await check(
  "the demo runs to its end",
  async () => assertMatch(await deno(["task", "demo"]), /The pool is empty again/),
);
await tests("tests", TEST_COMMAND.split(" "));
print("\n");
{
  await using folder = await labFolder("ci");
  await check(
    "compiling runs to its end",
    () => compile(`${folder.path}/not-the-product`, { runtime: Deno.execPath() }),
  );
  const parts = `${folder.path}/bundle`;
  await check("bundling", () => bundle(parts));
  await check("the bundle under its permissions", () => checkBundle(`${parts}/main.js`, folder.path));
  const sanity = [Deno.execPath(), "task", "test:sanity"];
  await tests("sanity of the bundle", sanity, { RDS_CSI_PROGRAM: `${parts}/main.js` });
}
print(`\n${sum.passed} passed, ${sum.failed} failed\n`);
Deno.exit(sum.failed === 0 ? 0 : 1);
