import { Commands } from "../../src/runtime/command.ts";
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
}

/**
 * The path of a tool, which is built once into `${XDG_CACHE_HOME:-~/.cache}/rds-csi/<tool>-<version>`. Two that build at
 * once do not disturb each other: the folder appears whole.
 */
export async function goTool(tool: GoTool): Promise<string> {
  const cache = `${Deno.env.get("XDG_CACHE_HOME") || `${Deno.env.get("HOME")}/.cache`}/rds-csi`;
  const folder = `${cache}/${tool.name}-${tool.version}`;
  const program = `${folder}/${tool.name}`;
  if (await exists(program)) return program;
  await Deno.mkdir(cache, { recursive: true });
  const building = await Deno.makeTempDir({ dir: cache, prefix: `.${tool.name}-` });
  try {
    await build(tool, building);
    await Deno.rename(building, folder);
  } catch (error) {
    await Deno.remove(building, { recursive: true });
    // Somebody else may have been faster.
    if (!await exists(program)) throw error;
  }
  return program;
}

async function build(tool: GoTool, folder: string): Promise<void> {
  const wanted = `${tool.package}@${tool.version}`;
  print(`Building ${wanted} with Go, once\n`);
  const { code, stderr } = await commands.run("go", ["install", wanted], { deadline: 600_000, env: { GOBIN: folder } });
  if (code !== 0) throw new Error(`go install ${wanted} failed: ${stderr}`);
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
