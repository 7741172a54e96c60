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

const known = new Map<string, MachineScenario>();

/** Machines for the tests of a file; files that are run together and ask for the same ones share them. */
export function machineScenarios(options: Omit<MachinesOptions, "folder"> = {}): MachineScenario {
  const key = JSON.stringify(options);
  const scenario = known.get(key) ?? scenariosOn(
    (folder) => startMachines({ folder, ...options }),
    missing,
    (machines) => afresh(machines, options),
  );
  known.set(key, scenario);
  return scenario;
}

/** What a scenario that failed has left must not make the next one fail: no session and no mount outlives a reset. */
async function afresh({ target, nodes }: Machines, { simulator = {} }: Pick<MachinesOptions, "simulator">) {
  target.settings = simulator;
  await Promise.all(nodes.map(({ machine }) => machine.restoreLink()));
  await Promise.all([target, ...nodes].map(({ machine }) => machine.reset()));
}

/**
 * Starts machines, and whatever else, before the tests of a file and ends them after.
 * @param why why they cannot be had here
 * @param afterFailure mends what a test that failed has left
 * @returns what such a test is written with: when it fails, it shows what all of them wrote
 */
export function scenariosOn<T extends AsyncDisposable & { report(): string }>(
  start: (folder: string) => Promise<T>,
  why: string | undefined,
  afterFailure: (made: T) => Promise<void> = async () => {},
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
    const fn = () => shown(run, made, afterFailure);
    // The machines outlive each test.
    Deno.test({ name, ignore: why !== undefined, sanitizeOps: false, sanitizeResources: false, fn });
  };
}

async function shown<T extends { report(): string }>(
  run: (made: T) => Promise<void>,
  made: T | undefined,
  afterFailure: (made: T) => Promise<void>,
): Promise<void> {
  if (!made) throw new Error("the machines did not start");
  try {
    await run(made);
  } catch (error) {
    print(`${made.report()}\n`);
    await afterFailure(made).catch((why) => print(`what it left stays: ${why}\n`));
    throw error;
  }
}
