import { Commands, type Output } from "../../src/runtime/command.ts";
import { goTool } from "../lab/go_tools.ts";
import { fromFileUrl, project } from "../lab/project.ts";

const commands = new Commands();

const helmTool = { name: "helm", version: "v3.18.6", package: "helm.sh/helm/v3/cmd/helm" };

/** The path of Helm, built once into the tests' cache. */
export function helmPath(): Promise<string> {
  return goTool(helmTool);
}

/** Runs a program in the project's folder to its end, whatever its exit code. */
export async function run(program: string, ...args: string[]): Promise<Output> {
  const inProject = ["-C", fromFileUrl(project), program, ...args];
  return await commands.run("env", inProject, { deadline: 120_000, keep: 16 * 2 ** 20 });
}

/** What a program says when all is well. @throws with what it says otherwise */
export async function said(program: string, ...args: string[]): Promise<Output> {
  const output = await run(program, ...args);
  if (output.code === 0) return output;
  throw new Error(`${program} ${args.join(" ")} ended with ${output.code}: ${output.stderr}${output.stdout}`);
}
