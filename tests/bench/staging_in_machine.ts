/**
 * The same as `staging.ts`, inside of a machine, with the kernel's NVMe/TCP. The one argument is a file with the volumes;
 * what it took is printed as JSON.
 * @module
 */
import { setupLog } from "../../src/runtime/log.ts";
import { print } from "../lab/layer.ts";
import { type Given, type Kind, type Sample, serve, stageThrice, startOfAProgram, TimedCommands } from "./staged.ts";

/** What it is told: volumes that were given to this node, by kind; the first of each warms up. */
export type Told = Record<Kind, Given[]>;
/** What it tells. */
export interface Took {
  samples: Record<Kind, Sample[][]>;
  startOfAProgram: number;
}

async function main(file: string): Promise<void> {
  setupLog({ level: "WARN", format: "text" });
  const told: Told = JSON.parse(await Deno.readTextFile(file));
  const commands = new TimedCommands();
  const folder = await Deno.makeTempDir();
  const { csi, stop } = await serve(folder, { commands, roots: { proc: "/proc", sysfs: "/sys", dev: "/dev" } });
  const samples: Took["samples"] = { ext4: [], xfs: [], block: [] };
  for (const kind of ["ext4", "xfs", "block"] as const) {
    for (const [at, given] of told[kind].entries()) {
      await Deno.mkdir(given.stagingPath, { recursive: true });
      const took = await stageThrice(csi, { given, commands, kind });
      if (at > 0) samples[kind].push(took);
    }
  }
  const took: Took = { samples, startOfAProgram: await startOfAProgram(commands) };
  await stop();
  print(`${JSON.stringify(took)}\n`);
}

if (import.meta.main) await main(Deno.args[0] ?? "");
