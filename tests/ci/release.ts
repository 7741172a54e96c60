/**
 * Makes the compiled program for a release, on a machine that reaches the network, and tries it: `deno task release`. It is
 * the only thing that Deno's runtime part is downloaded for. The program is in `dist` when all that was tried holds.
 * @module
 */
import { assertEquals, assertMatch } from "@std/assert";
import manifest from "../../deno.json" with { type: "json" };
import { compile } from "../../deploy/image/build.ts";
import { print } from "../lab/layer.ts";
import { fromFileUrl, project } from "../lab/project.ts";

const folder = fromFileUrl(new URL("dist", project));
const program = `${folder}/rds-csi-${Deno.build.target}`;
const probe = `${folder}/probe`;

/** Runs a program, with what it says on our own output. @throws when it fails */
async function run(command: readonly string[], env: Record<string, string> = {}): Promise<void> {
  const [first = "", ...args] = command;
  const { code } = await new Deno.Command(first, { args, env, cwd: fromFileUrl(project), stdin: "null" }).spawn()
    .status;
  assertEquals(code, 0, command.join(" "));
}

await Deno.mkdir(folder, { recursive: true });
print(`Compiling ${program}\n`);
await compile(program);
await compile(probe, { main: "tests/permissions/probe.ts" });

const { stdout } = await new Deno.Command(program, { args: ["--version"] }).output();
assertEquals(new TextDecoder().decode(stdout), `rds-csi ${manifest.version}\n`);
const diagnosed = await new Deno.Command(program, { args: ["diagnose", "--help"] }).output();
assertMatch(new TextDecoder().decode(diagnosed.stdout), /--output/);
await run([Deno.execPath(), "test", "-A", "tests/permissions"], { RDS_CSI_PROBE: probe });
await run([Deno.execPath(), "task", "test:sanity"], { RDS_CSI_PROGRAM: program, RDS_CSI_REQUIRE: "all" });
await Deno.remove(probe);
print(`${program} holds what was tried\n`);
