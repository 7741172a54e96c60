import { Commands } from "../../src/runtime/command.ts";
import { cached } from "./cache.ts";
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
 * The path of a tool, which is built once into the tests' cache. What an interrupted build has compiled is in Go's own
 * cache.
 */
export function goTool(tool: GoTool): Promise<string> {
  return cached(tool, (folder) => build(tool, folder));
}

async function build(tool: GoTool, folder: string): Promise<void> {
  const wanted = `${tool.package}@${tool.version}`;
  print(`Building ${wanted} with Go, once\n`);
  if (tool.module) return await buildInModule({ ...tool, module: tool.module }, folder);
  const env = { GOBIN: `${folder}/bin` };
  const { code, stderr } = await commands.run("go", ["install", wanted], { deadline: 600_000, env });
  if (code !== 0) throw new Error(`go install ${wanted} failed: ${stderr}`);
}
