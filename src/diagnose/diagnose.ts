import type { CommandName } from "../config_commands.ts";
import type { Config } from "../config_read.ts";
import { runChecks } from "./check.ts";
import { nodeChecks } from "./node_checks.ts";
import { nodeWorld } from "./node_world.ts";
import { exitStatus, jsonReport, textReport } from "./report.ts";

/** What a command is given besides its settings. */
export interface Circumstances {
  version: string;
  /** Settings of the environment that are wrong. */
  problems: readonly string[];
  signal: AbortSignal;
}

/** Looks, prints what it found and resolves to the exit status. */
export async function diagnose(
  command: Exclude<CommandName, "prestop">,
  config: Config,
  { version, problems, signal }: Circumstances,
): Promise<number> {
  const subject = command === "diagnose controller" ? "controller" : "node";
  const name = subject === "node" ? config.nodeId : config.rdsAddress;
  const outcomes = await runChecks(nodeChecks(nodeWorld(config, { problems, version })), signal);
  const report = { subject, version, name, time: new Date(), outcomes };
  const colour = Deno.stdout.isTerminal();
  const text = config.output === "json" ? jsonReport(report) : textReport(report, { colour });
  Deno.stdout.writeSync(new TextEncoder().encode(text));
  return exitStatus(report);
}
