import { type LabFolder, labFolder } from "../lab/folder.ts";
import { whyNoMachines } from "../lab/machines/kernel.ts";
import { type Machines, type MachinesOptions, startMachines } from "../lab/machines/machines.ts";
import { print } from "../lab/layer.ts";

/** A test that has machines to work on. */
export type MachineScenario = (name: string, run: (machines: Machines) => Promise<void>) => void;

/** Why there are none here: the layer `nvme` says so, and a run of single files leaves them out. */
const missing = await whyNoMachines();

/**
 * Starts machines before the tests of a file and ends them after.
 * @returns what such a test is written with: when it fails, it shows what all machines wrote
 */
export function machineScenarios(options: Omit<MachinesOptions, "folder"> = {}): MachineScenario {
  let folder: LabFolder | undefined;
  let machines: Machines | undefined;

  Deno.test.beforeAll(async () => {
    if (missing) return;
    folder = await labFolder("vm");
    machines = await startMachines({ folder: folder.path, ...options });
  });

  Deno.test.afterAll(async () => {
    await machines?.[Symbol.asyncDispose]();
    await folder?.[Symbol.asyncDispose]();
  });

  return (name, run) => {
    const fn = () => shown(run, machines);
    // The machines outlive each test.
    Deno.test({ name, ignore: missing !== undefined, sanitizeOps: false, sanitizeResources: false, fn });
  };
}

async function shown(run: (machines: Machines) => Promise<void>, machines: Machines | undefined): Promise<void> {
  if (!machines) throw new Error("the machines did not start");
  try {
    await run(machines);
  } catch (error) {
    print(`${machines.report()}\n`);
    throw error;
  }
}
