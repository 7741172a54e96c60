import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { prefix } from "../../tests/lab/routeros.ts";
import { type Config, readConfig } from "../config_read.ts";
import type { Guesses, SimulatorOptions } from "../simulator/options.ts";
import { guessDefaults, type Simulator, startSimulator } from "../simulator/simulator.ts";
import { probe, type Probed, type ProbeOptions } from "./probe.ts";
import { asGuesses, jsonProbe, textProbe } from "./probe_report.ts";
import { type Patience, questions } from "./questions.ts";

const quick: Patience = { late: 1500, held: "100ms", channel: 2000, connected: 2000, cutOff: 500, cleaning: 10_000 };

/** A simulated RouterOS with other people's disks and files on it. */
class Device implements AsyncDisposable {
  private constructor(readonly simulator: Simulator, readonly folder: string) {}

  static async start(guesses: Guesses, more: Partial<SimulatorOptions> = {}): Promise<Device> {
    const folder = await Deno.makeTempDir({ prefix: "rds-csi-probe-" });
    const simulator = await startSimulator({
      poolFolder: `${folder}/pool`,
      guesses,
      // So that an add can be cut off.
      latency: { "disk add": 200 },
      foreignDisks: [{ type: "file", slot: "others", "file-path": "/storage-pool/others.img", size: 1 << 20 }],
      ...more,
    });
    await Deno.writeTextFile(`${folder}/host_key`, `${simulator.hostKey}\n`);
    return new Device(simulator, folder);
  }

  config(): Config {
    const { simulator, folder } = this;
    const request = readConfig(["diagnose", "probe", "--yes-make-a-scratch-disk", "--scratch-size=1M"], {
      CSI_MANAGED_NQN_PREFIX: prefix,
      RDS_CSI_RDS_ADDRESS: simulator.host,
      RDS_CSI_RDS_PORT: String(simulator.port),
      RDS_CSI_RDS_KEY_FILE: simulator.clientKeyFile ?? "",
      RDS_CSI_RDS_HOST_KEY: `${folder}/host_key`,
    });
    if (request.kind !== "command") throw new Error(JSON.stringify(request));
    return request.config;
  }

  probe(more: Partial<ProbeOptions> = {}): Promise<Probed> {
    return probe(this.config(), { signal: new AbortController().signal, patience: quick, ...more });
  }

  /** All rows but the probe's own kind would have, and all files. */
  what(): unknown {
    const { disks, files } = this.simulator.state();
    return { disks: disks.map(({ slot }) => slot), files: files.map(({ name }) => name) };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.simulator.close();
    await Deno.remove(this.folder, { recursive: true });
  }
}

/** Answers by the names of the simulator's settings. */
function answersOf({ asked }: Probed): Record<string, unknown> {
  return Object.fromEntries(asked.map(({ name, answer, why }) => [name, answer ? answer.value : why]));
}

/** Each guess the other way than it is by default, in groups that go together, and all at once. */
const others: Guesses[] = [
  { uniqueSlots: false, longestSlot: 33, outlivesChannel: false, maxChannels: 7, leadingSlash: false },
  { uniqueFiles: false, sizeOnExistingFile: true, removesUsedFiles: true, makesFolders: false, noRows: "nothing" },
  { uniqueNqns: false, renamesExports: true, preallocated: true, jsonDecimals: true, failureStatus: 1 },
  {
    ...{ uniqueSlots: false, uniqueFiles: false, uniqueNqns: false, renamesExports: true, longestSlot: 40 },
    ...{
      sizeOnExistingFile: true,
      preallocated: true,
      makesFolders: false,
      removesUsedFiles: true,
      leadingSlash: false,
    },
    ...{ outlivesChannel: false, noRows: "nothing", jsonDecimals: true, failureStatus: 1, failuresOnStderr: true },
    maxChannels: 5,
  },
];

/** Probes a RouterOS of its own. */
async function probesWell(guesses: Guesses): Promise<void> {
  await using device = await Device.start(guesses);
  const before = device.what();
  const probed = await device.probe();
  const about = JSON.stringify({ guesses, probed });
  assertEquals(probed.left, undefined, about);
  assertEquals(device.what(), before, about);
  const answers = answersOf(probed);
  const { growth: _growth, exportsBackAfter: _back, ...wanted } = { ...guessDefaults, ...guesses };
  for (const [name, value] of Object.entries(wanted)) assertEquals([name, answers[name]], [name, value], about);
  assertEquals([answers.exactSize, answers.rowLeavesFile, answers.sizeType], [true, true, "num"], about);
  if (guesses.preallocated) assertStringIncludes(String(answers.largerThanPool), "the pool might be filled");
  else assertEquals(answers.largerThanPool, false, about);
}

// Side by side: most of their time is waiting.
Deno.test("probe() gives the right answer to every question, each guess each way, and leaves nothing", async () => {
  await Promise.all([{}, ...others].map(probesWell));
});

async function interrupted(after: number): Promise<void> {
  await using device = await Device.start({}, { latency: { "disk add": 20, "line": 2 } });
  const before = device.what();
  const caller = new AbortController();
  const begin = device.simulator.state().lines;
  const timer = setInterval(() => device.simulator.state().lines - begin >= after && caller.abort(), 1);
  const probed = await device.probe({ signal: caller.signal }).catch((error) => error).finally(() =>
    clearInterval(timer)
  );
  assertEquals(device.what(), before, `interrupted after ${after} lines: ${JSON.stringify(probed)}`);
  assert(probed instanceof Error || (probed as Probed).left === undefined);
}

async function cutOff(when: "before" | "after", command: string): Promise<void> {
  await using device = await Device.start({});
  const before = device.what();
  device.simulator.faults.cut(when, command);
  await device.probe({ questions: questions(quick).slice(5, 9) }).catch(() => {});
  assertEquals(device.what(), before, `cut ${when} ${command}`);
}

Deno.test("probe() removes its disk when it is interrupted at any moment, and when it loses its connection", async () => {
  await Promise.all([
    ...[1, 5, 9, 18, 35, 52].map(interrupted),
    ...[cutOff("before", "disk add"), cutOff("after", "disk add"), cutOff("after", "disk remove")],
  ]);
});

Deno.test("probe() leaves nothing behind where nothing may be made", async () => {
  await using device = await Device.start({}, { policies: ["ssh", "read"] });
  await assertRejects(() => device.probe(), Error, "no scratch disk could be made: 'not enough permissions (9)'");
});

Deno.test("probe() says what is left, and how to remove it, when RouterOS lets nothing be removed", async () => {
  await using device = await Device.start({});
  device.simulator.faults.error("failure: busy", "disk remove", 10_000);
  const { left } = await device.probe({ questions: [], patience: { ...quick, cleaning: 1000 } });
  assertStringIncludes(left ?? "", "rds-csi-probe-");
  assertStringIncludes(left ?? "", "/disk print where slot~");
});

Deno.test("textProbe() prints a table to send, and what makes a simulator do the same", async () => {
  await using device = await Device.start({ noRows: "nothing", longestSlot: 40 });
  const few = questions(quick).filter(({ name }) => /Slot|noRows/.test(name));
  const probed = await device.probe({ questions: few });
  const about = { version: "1.2.3", time: new Date(0) };
  const text = textProbe(probed, about);
  assertStringIncludes(text, "RouterOS 7.24.4 (stable) on RDS2216 (arm64), asked by rds-csi 1.2.3");
  assertStringIncludes(text, "The scratch disk is removed.");
  const guesses = asGuesses(probed);
  for (const part of ["noRows=nothing", "longestSlot=40", "uniqueSlots=true"]) assertStringIncludes(guesses, part);
  const json = JSON.parse(jsonProbe(probed, about));
  assertEquals([json.schema, json.left, json.guesses], ["rds-csi/probe/v1", null, guesses]);
  assertEquals(json.questions.length, probed.asked.length);
});
