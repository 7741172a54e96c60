import type { Config } from "./config_read.ts";
import { FailedPrecondition } from "./runtime/errors.ts";
import type { Guesses } from "./simulator/options.ts";
import { guessDefaults, startSimulator } from "./simulator/simulator.ts";

/** The simulator, as a process of its own. Its ready line on standard output is one line of JSON. */
export async function startSimulation(config: Config): Promise<{ stop(): Promise<void> }> {
  const simulator = await startSimulator({
    poolFolder: config.pool,
    poolSize: Number(config.poolSize),
    mountPoint: config.mountPoint,
    host: config.listen.host || "0.0.0.0",
    port: config.listen.port,
    version: config.routerosVersion,
    exporter: config.exporter,
    latency: Object.fromEntries(Object.entries(config.latency).map(([command, text]) => [command, milliseconds(text)])),
    guesses: guessesOf(config.guesses),
    ...(config.user ? { user: config.user } : {}),
    ...(config.authorizedKeys ? { authorizedKeysFile: config.authorizedKeys } : {}),
    nvmetRoot: config.nvmetRoot,
    ...(config.exportsDir ? { exportsDir: config.exportsDir } : {}),
    ...(config.controlSocket ? { controlSocket: config.controlSocket } : {}),
  });
  const { host, port, hostKey, fingerprint, clientKeyFile } = simulator;
  const ready = JSON.stringify({ ready: true, host, port, fingerprint, hostKey, clientKeyFile });
  Deno.stdout.writeSync(new TextEncoder().encode(`${ready}\n`));
  return { stop: () => simulator.close() };
}

function milliseconds(text: string): number {
  if (/^\d{1,7}$/.test(text)) return Number(text);
  throw new FailedPrecondition(`--latency has '${text}': write milliseconds, like add=400,print=50`);
}

/** `growth=reconnect,uniqueSlots=false` as values of the types that the guesses have. */
function guessesOf(given: Readonly<Record<string, string>>): Guesses {
  const known: Readonly<Record<string, unknown>> = guessDefaults;
  const values = Object.entries(given).map(([name, text]) => {
    if (!Object.hasOwn(known, name)) {
      throw new FailedPrecondition(`--guesses names '${name}': there are ${Object.keys(known).join(", ")}`);
    }
    const value = text === "true" ? true : text === "false" ? false : /^\d+$/.test(text) ? Number(text) : text;
    if (typeof value !== typeof known[name]) {
      throw new FailedPrecondition(`--guesses has ${name}=${text}: write a value like ${known[name]}`);
    }
    return [name, value];
  });
  return Object.fromEntries(values);
}
