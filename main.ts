/**
 * rds-csi: arguments → mode. The only place that ends the process.
 * @module
 */
import manifest from "./deno.json" with { type: "json" };
import { settings } from "./src/config.ts";
import { helpText } from "./src/config_help.ts";
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

async function main(args: readonly string[]): Promise<number> {
  const request = readConfig(args, environment());
  switch (request.kind) {
    case "help":
      print(helpText(manifest.version));
      return 0;
    case "version":
      print(`rds-csi ${manifest.version}\n`);
      return 0;
    case "wrong":
      for (const problem of request.problems) print(`rds-csi: ${problem}\n`, Deno.stderr);
      return 2;
    case "run":
      return await run(request);
  }
}

if (import.meta.main) Deno.exit(await main(Deno.args));
