import { Commands } from "../../../src/runtime/command.ts";
import { fromFileUrl, project } from "../project.ts";

const made = new Map<string, Promise<string>>();

/**
 * A cache of Deno's for the guests: the host's packages, and what Deno notes about the driver. The host's own is large, is
 * written to meanwhile, and each guest would copy it.
 * @returns its path, in the folder
 */
export function guestDenoDir(folder: string): Promise<string> {
  const known = made.get(folder) ?? make(`${folder}/deno`);
  made.set(folder, known);
  return known;
}

async function make(path: string): Promise<string> {
  const { denoDir }: { denoDir: string } = JSON.parse(await deno({}, "info", "--json"));
  await Deno.mkdir(path);
  await Deno.symlink(`${denoDir}/npm`, `${path}/npm`);
  const modules = ["src/node.ts", "src/simulate.ts"].map((file) => `import "${new URL(file, project)}";\n`);
  await Deno.writeTextFile(`${path}/all.ts`, `${modules.join("")}Deno.exit();\n`);
  await deno({ DENO_DIR: path }, "run", "-A", "--quiet", "--config=deno.json", `${path}/all.ts`);
  return path;
}

async function deno(env: Record<string, string>, ...args: string[]): Promise<string> {
  const inProject = ["-C", fromFileUrl(project), Deno.execPath(), ...args];
  const { code, stdout, stderr } = await new Commands().run("env", inProject, { deadline: 60_000, env });
  if (code !== 0) throw new Error(`deno ${args.join(" ")} failed: ${stderr}`);
  return stdout;
}
