import { Commands } from "../../src/runtime/command.ts";
import { pause } from "../../src/runtime/deadline.ts";
import { buildInModule } from "./go_module.ts";
import { print } from "./layer.ts";

const commands = new Commands();
const LEAST_GO = [1, 24] as const;
const HOW = `install Go ${LEAST_GO.join(".")} or later (go.dev/dl) and put it into PATH`;

/** Why nothing can be built with Go here; `undefined` when it can. */
export async function whyNoGo(): Promise<string | undefined> {
  let version: string;
  try {
    version = (await commands.run("go", ["env", "GOVERSION"], { deadline: 30_000 })).stdout.trim();
  } catch {
    return `Go is missing: ${HOW}`;
  }
  const [, major = "0", minor = "0"] = /^go(\d+)\.(\d+)/.exec(version) ?? [];
  const recent = Number(major) > LEAST_GO[0] || (Number(major) === LEAST_GO[0] && Number(minor) >= LEAST_GO[1]);
  return recent ? undefined : `Go is too old (${version}): ${HOW}`;
}

/** A program that is built from a Go module. */
export interface GoTool {
  name: string;
  version: string;
  /** The package without a version. */
  package: string;
  /** For a program that `go install` refuses, because its module replaces others: how it is built all the same. */
  module?: GoModule;
}

/** The module that a program's package lies in. */
export interface GoModule {
  path: string;
  /** The version of the modules that it replaces by folders of its own repository, where they are needed in that version. */
  replaced?: string;
  /** Variables that the linker sets. */
  variables?: Readonly<Record<string, string>>;
}

/**
 * The path of a tool, which is built once into `${XDG_CACHE_HOME:-~/.cache}/rds-csi/<tool>-<version>`. The folder appears
 * whole; of two that build at once, one waits. What an interrupted build has compiled is in Go's own cache.
 */
export async function goTool(tool: GoTool): Promise<string> {
  const cache = `${Deno.env.get("XDG_CACHE_HOME") || `${Deno.env.get("HOME")}/.cache`}/rds-csi`;
  const folder = `${cache}/${tool.name}-${tool.version}`;
  const program = `${folder}/${tool.name}`;
  if (await exists(program)) return program;
  await Deno.mkdir(cache, { recursive: true });
  // The lock ends with whoever holds it.
  using lock = await Deno.open(`${cache}/.${tool.name}-${tool.version}.lock`, { create: true, write: true });
  await take(lock, tool);
  if (await exists(program)) return program;
  const building = `${cache}/.${tool.name}-${tool.version}.building`;
  await removeIfThere(building);
  await Deno.mkdir(`${building}/bin`, { recursive: true });
  await build(tool, building);
  await Deno.rename(`${building}/bin`, folder);
  await Deno.remove(building, { recursive: true });
  return program;
}

/** Milliseconds that somebody else may take to build the same. */
const PATIENCE = 1_800_000;

async function take(lock: Deno.FsFile, tool: GoTool): Promise<void> {
  const end = performance.now() + PATIENCE;
  for (let said = false; !await lock.tryLock(true); said = true) {
    if (!said) print(`Waiting for another build of ${tool.name} ${tool.version}\n`);
    if (performance.now() > end) throw new Error(`${tool.name} is being built by somebody else for too long`);
    await pause(500);
  }
}

async function build(tool: GoTool, folder: string): Promise<void> {
  const wanted = `${tool.package}@${tool.version}`;
  print(`Building ${wanted} with Go, once\n`);
  if (tool.module) return await buildInModule({ ...tool, module: tool.module }, folder);
  const env = { GOBIN: `${folder}/bin` };
  const { code, stderr } = await commands.run("go", ["install", wanted], { deadline: 600_000, env });
  if (code !== 0) throw new Error(`go install ${wanted} failed: ${stderr}`);
}

async function removeIfThere(folder: string): Promise<void> {
  if (await exists(folder)) await Deno.remove(folder, { recursive: true });
}

async function exists(path: string): Promise<boolean> {
  try {
    await Deno.stat(path);
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}
