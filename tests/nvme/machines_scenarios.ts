import { type LabFolder, labFolder } from "../lab/folder.ts";
import { whyNoMachines } from "../lab/machines/kernel.ts";
import { type Machines, type MachinesOptions, startMachines } from "../lab/machines/machines.ts";
import { print } from "../lab/layer.ts";

/** A test that has something to work on that outlives it. */
export type ScenarioOn<T> = (name: string, run: (made: T) => Promise<void>) => void;
/** A test that has machines to work on. */
export type MachineScenario = ScenarioOn<Machines>;

/** Why there are none here: the layer `nvme` says so, and a run of single files leaves them out. */
const missing = await whyNoMachines();

/** Machines for the tests of a file. */
export function machineScenarios(options: Omit<MachinesOptions, "folder"> = {}): MachineScenario {
  return scenariosOn((folder) => startMachines({ folder, ...options }), missing);
}

/**
 * Starts machines, and whatever else, before the tests of a file and ends them after.
 * @param why why they cannot be had here
 * @returns what such a test is written with: when it fails, it shows what all of them wrote
 */
export function scenariosOn<T extends AsyncDisposable & { report(): string }>(
  start: (folder: string) => Promise<T>,
  why: string | undefined,
): ScenarioOn<T> {
  let folder: LabFolder | undefined;
  let made: T | undefined;

  Deno.test.beforeAll(async () => {
    if (why) return;
    folder = await labFolder("vm");
    made = await start(folder.path);
  });

  Deno.test.afterAll(async () => {
    await made?.[Symbol.asyncDispose]();
    await folder?.[Symbol.asyncDispose]();
  });

  return (name, run) => {
    const fn = () => shown(run, made);
    // The machines outlive each test.
    Deno.test({ name, ignore: why !== undefined, sanitizeOps: false, sanitizeResources: false, fn });
  };
}

async function shown<T extends { report(): string }>(
  run: (made: T) => Promise<void>,
  made: T | undefined,
): Promise<void> {
  if (!made) throw new Error("the machines did not start");
  try {
    await run(made);
  } catch (error) {
    print(`${made.report()}\n`);
    throw error;
  }
}
