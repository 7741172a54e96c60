import type { CommandName } from "../config_commands.ts";
import type { Config } from "../config_read.ts";
import { runChecks } from "./check.ts";
import { controllerChecks } from "./controller_checks.ts";
import { controllerWorld } from "./controller_world.ts";
import { nodeChecks } from "./node_checks.ts";
import { nodeWorld } from "./node_world.ts";
import { print } from "./print.ts";
import { exitStatus, jsonReport, type Report, textReport } from "./report.ts";

/** What a command is given besides its settings. */
export interface Circumstances {
  version: string;
  /** Settings of the environment that are wrong. */
  problems: readonly string[];
  signal: AbortSignal;
}

/** Does what was asked for, prints what came of it and resolves to the exit status. */
export async function diagnose(
  command: Exclude<CommandName, "prestop">,
  config: Config,
  circumstances: Circumstances,
): Promise<number> {
  if (command === "diagnose probe") {
    return await (await import("./probe_command.ts")).probeCommand(config, circumstances);
  }
  if (command === "diagnose bundle") return await (await import("./bundle.ts")).bundleCommand(config, circumstances);
  const look = command === "diagnose controller" ? controllerReport : nodeReport;
  const report = await look(config, circumstances);
  print(config.output === "json" ? jsonReport(report) : textReport(report, { colour: Deno.stdout.isTerminal() }));
  return exitStatus(report);
}

/** The report on this node. */
export async function nodeReport(config: Config, { version, problems, signal }: Circumstances): Promise<Report> {
  const world = nodeWorld(config, { problems, version });
  const outcomes = await runChecks(nodeChecks(world), signal);
  return { subject: "node", version, name: config.nodeId, time: new Date(), outcomes };
}

/** The report on RouterOS and what Kubernetes has of it. */
export async function controllerReport(config: Config, { version, problems, signal }: Circumstances): Promise<Report> {
  const world = controllerWorld(config, { problems, version });
  const outcomes = await runChecks(controllerChecks(world), signal).finally(() => world.close());
  return { subject: "controller", version, name: config.rdsAddress, time: new Date(), outcomes };
}
