/**
 * rds-csi: arguments → mode. The only place that ends the process.
 * @module
 */
import manifest from "./deno.json" with { type: "json" };
import { settings } from "./src/config.ts";
import type { CommandName } from "./src/config_commands.ts";
import { commandHelp, helpText } from "./src/config_help.ts";
import { readConfig, type Request } from "./src/config_read.ts";
import { dropPermissions } from "./src/permissions.ts";
import { messageOf } from "./src/runtime/errors.ts";
import { log, setupLog } from "./src/runtime/log.ts";

/** A mode at work. */
interface Running {
  /** Ends it in good order, within its grace. */
  stop(): Promise<void>;
}

type Run = Request & { kind: "run" };
type Perform = Request & { kind: "command" };

/** Each mode loads its own parts only: what is not imported costs neither memory nor start-up time. */
async function start({ mode, config }: Run): Promise<Running> {
  switch (mode) {
    case "controller":
      return (await import("./src/controller.ts")).startController(config, manifest.version);
    case "node":
      return (await import("./src/node.ts")).startNode(config, manifest.version);
    case "simulator":
      return (await import("./src/simulate.ts")).startSimulation(config);
  }
}

function print(text: string, to: { writeSync(bytes: Uint8Array): number } = Deno.stdout): void {
  to.writeSync(new TextEncoder().encode(text));
}

/** The variables that are settings: nothing else of the environment is read. */
function environment(): Record<string, string> {
  const names = Object.values(settings).map((setting) => setting.env);
  return Object.fromEntries(names.flatMap((name) => {
    const value = Deno.env.get(name);
    return value === undefined ? [] : [[name, value]];
  }));
}

function ended(): Promise<string> {
  return new Promise((resolve) => {
    for (const signal of ["SIGTERM", "SIGINT"] as const) Deno.addSignalListener(signal, () => resolve(signal));
  });
}

async function run(request: Run): Promise<number> {
  setupLog({ level: request.config.logLevel, format: request.config.logFormat });
  for (const warning of request.warnings) log.warn(warning);
  const signal = ended();
  try {
    const { mode, config } = request;
    // The simulator runs programs for one exporter alone.
    dropPermissions(mode, mode === "simulator" && config.exporter === "nvmet" ? ["run"] : []);
    const running = await start(request);
    log.info(`ending because of ${await signal}`);
    await running.stop();
    return 0;
  } catch (error) {
    log.error(`the ${request.mode} ended: ${messageOf(error)}`);
    return 1;
  }
}

async function help(command: CommandName | undefined): Promise<string> {
  const { version } = manifest;
  if (command === undefined) return helpText(version);
  const more = command === "prestop" ? [] : (await import("./src/diagnose/help.ts")).helpLines(command);
  return commandHelp(command, { version, more });
}

/** Does what was asked for once. Like modes, each loads its own parts only. @returns the exit status */
async function perform({ command, config, problems }: Perform): Promise<number> {
  const level = config.logLevel;
  // The report of a diagnosis says all that there is to say.
  if (command === "prestop" || level === "DEBUG") setupLog({ level, format: config.logFormat });
  try {
    dropPermissions(
      command === "diagnose" || command === "diagnose bundle" || command === "diagnose probe" ? "node" : "controller",
    );
    if (command === "prestop") {
      for (const problem of problems) log.warn(problem);
      return await (await import("./src/prestop.ts")).prestop(config);
    }
    const { diagnose } = await import("./src/diagnose/diagnose.ts");
    const ending = new AbortController();
    ended().then((signal) => ending.abort(new Error(`interrupted by ${signal}`)));
    return await diagnose(command, config, { version: manifest.version, problems, signal: ending.signal });
  } catch (error) {
    print(`rds-csi ${command}: ${messageOf(error)}\n`, Deno.stderr);
    return 2;
  }
}

async function main(args: readonly string[]): Promise<number> {
  const request = readConfig(args, environment());
  switch (request.kind) {
    case "help":
      print(await help(request.command));
      return 0;
    case "version":
      print(`rds-csi ${manifest.version}\n`);
      return 0;
    case "wrong":
      for (const problem of request.problems) print(`rds-csi: ${problem}\n`, Deno.stderr);
      return 2;
    case "command":
      return await perform(request);
    case "run":
      return await run(request);
  }
}

if (import.meta.main) Deno.exit(await main(Deno.args));
