import { Commands } from "../../src/runtime/command.ts";
import { print } from "./layer.ts";

/** Whether a program can be found, also where only root's PATH leads. */
export async function hasProgram(program: string): Promise<boolean> {
  const folders = [...(Deno.env.get("PATH") ?? "").split(":"), "/usr/sbin", "/sbin"];
  for (const folder of folders.filter((each) => each !== "")) {
    try {
      if ((await Deno.stat(`${folder}/${program}`)).isFile) return true;
    } catch {
      // Not in this folder.
    }
  }
  return false;
}

/**
 * Makes sure that programs are there, with Debian's packages when root.
 * @param packages the package of each program
 * @returns what is missing and how to get it
 */
export async function needPrograms(packages: Readonly<Record<string, string>>): Promise<string | undefined> {
  let missing = await missingOf(packages);
  if (missing.length > 0 && Deno.uid() === 0 && await hasProgram("apt-get")) {
    await install([...new Set(missing.map((program) => packages[program] ?? program))]);
    missing = await missingOf(packages);
  }
  if (missing.length === 0) return undefined;
  const wanted = [...new Set(missing.map((program) => packages[program]))].join(" ");
  return `${missing.join(", ")} missing: apt-get install ${wanted} (as root this is done by itself)`;
}

async function missingOf(packages: Readonly<Record<string, string>>): Promise<string[]> {
  const missing = [];
  for (const program of Object.keys(packages)) if (!await hasProgram(program)) missing.push(program);
  return missing;
}

async function install(packages: readonly string[]): Promise<void> {
  print(`Installing ${packages.join(" ")}\n`);
  const commands = new Commands();
  const env = { DEBIAN_FRONTEND: "noninteractive" };
  const args = ["-q", "-y", "-o", "DPkg::Lock::Timeout=120", "install", "--no-install-recommends", ...packages];
  const first = await commands.run("apt-get", args, { deadline: 300_000, env });
  if (first.code === 0) return;
  await commands.run("apt-get", ["-q", "update"], { deadline: 300_000, env });
  const second = await commands.run("apt-get", args, { deadline: 300_000, env });
  if (second.code !== 0) print(`apt-get install ${packages.join(" ")} failed:\n${second.stderr}\n`);
}
