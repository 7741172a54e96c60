import { Commands } from "../../src/runtime/command.ts";
import type { GoModule, GoTool } from "./go_tools.ts";
import { print } from "./layer.ts";
import { TextLineStream } from "../../src/runtime/lines.ts";

const commands = new Commands();

/** Milliseconds that one program may take: kube-apiserver takes some four minutes on two cores. */
const LIMIT = 1_800_000;
/** Milliseconds between two lines that say how far it is. */
const SAY = 20_000;

/**
 * Builds a program in a module of our own, `<folder>/module`, that has the replace lines of the program's module, into
 * `<folder>/bin`. Needed where a module replaces others, because `go install` refuses that.
 */
export async function buildInModule(tool: GoTool & { module: GoModule }, folder: string): Promise<void> {
  const { name, version, module } = tool;
  const own = `${folder}/module`;
  await Deno.mkdir(own);
  const { GoMod } = JSON.parse(await go(own, "mod", "download", "-json", `${module.path}@${version}`));
  const replaces = replacements(JSON.parse(await go(own, "mod", "edit", "-json", GoMod)), module.replaced);
  await go(own, "mod", "init", "rds-csi.test/tools");
  for (const replace of replaces) await go(own, "mod", "edit", `-replace=${replace}`);
  await go(own, "get", `${tool.package}@${version}`);
  const flags = Object.entries(module.variables ?? {}).map(([variable, value]) => `-X ${variable}=${value}`);
  await compile(name, [
    "build",
    "-v",
    "-trimpath",
    `-ldflags=-s -w ${flags.join(" ")}`,
    "-o",
    `${folder}/bin/${name}`,
    tool.package,
  ], own);
}

/** The part of `go mod edit -json` that is read. */
export interface ModFile {
  Replace?: { Old: { Path: string }; New: { Path: string; Version?: string } }[] | null;
}

/**
 * Replace lines that hold outside of the module's repository, as `old=new@version`.
 * @param replaced the version of modules that lie in folders of it; without one the versions that it requires are taken
 */
export function replacements(file: ModFile, replaced?: string): string[] {
  return (file.Replace ?? []).flatMap(({ Old, New }) => {
    if (New.Version) return [`${Old.Path}=${New.Path}@${New.Version}`];
    return replaced ? [`${Old.Path}=${Old.Path}@${replaced}`] : [];
  });
}

const env = { CGO_ENABLED: "0", GOWORK: "off" };

async function go(cwd: string, ...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await commands.run("go", ["-C", cwd, ...args], {
    deadline: LIMIT,
    env,
    keep: 16 * 2 ** 20,
  });
  if (code !== 0) throw new Error(`go ${args.slice(0, 3).join(" ")} failed: ${stderr}${stdout}`);
  return stdout;
}

/** Runs a build with `-v` and says now and then how many packages it has compiled. */
async function compile(name: string, args: readonly string[], cwd: string): Promise<void> {
  const started = performance.now();
  const child = new Deno.Command("go", { args: [...args], cwd, env, stdin: "null", stdout: "null", stderr: "piped" })
    .spawn();
  const lines: string[] = [];
  const seconds = () => Math.round((performance.now() - started) / 1000);
  const saying = setInterval(() => print(`  ${name}: ${lines.length} packages in ${seconds()} s\n`), SAY);
  const limit = setTimeout(() => child.kill("SIGKILL"), LIMIT);
  try {
    const text = child.stderr.pipeThrough(new TextDecoderStream()).pipeThrough(new TextLineStream());
    for await (const line of text) lines.push(line);
    if (!(await child.status).success) throw new Error(`building ${name} failed:\n${lines.slice(-40).join("\n")}`);
    print(`  ${name}: built in ${seconds()} s\n`);
  } finally {
    clearInterval(saying);
    clearTimeout(limit);
  }
}
