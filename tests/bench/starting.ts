import { pause } from "../../src/runtime/deadline.ts";
import { median, milliseconds, progress, table } from "./figures.ts";
import { startController } from "../lab/driver.ts";
import type { LabProcess } from "../lab/process.ts";
import { type Scope, startNode, startSimulator } from "./laboratory.ts";

type Started = Pick<LabProcess, "pid"> & AsyncDisposable;

/** From starting a process to its serving, and what it holds when it has nothing to do. */
export async function starting(folder: string, scope: Scope): Promise<string> {
  const times = scope.quick ? 2 : 9;
  const idle = scope.quick ? 1 : 5;
  await Deno.mkdir(folder);
  await using simulator = await startSimulator(folder);
  await Deno.mkdir(`${folder}/second`);
  const modes: Record<string, () => Promise<Started>> = {
    "an empty Deno program": startNothing,
    controller: () => startController(folder, simulator, `${folder}/controller.sock`),
    node: () => startNode(folder),
    simulator: () => startSimulator(`${folder}/second`),
  };
  const rows = [["", "serving after", "fastest", "slowest", "resident", "of it anonymous"]];
  for (const [mode, start] of Object.entries(modes)) {
    progress(`  ${mode}: ${times} starts, then ${idle} s idle`);
    const durations: number[] = [];
    for (let turn = 0; turn < times; turn++) {
      scope.signal.throwIfAborted();
      const began = performance.now();
      await using _process = await start();
      durations.push(performance.now() - began);
    }
    await using process = await start();
    await pause(idle * 1000, scope.signal);
    const { resident, anonymous } = await memoryOf(process.pid);
    const shown = [median(durations), Math.min(...durations), Math.max(...durations)].map(milliseconds);
    rows.push([mode, ...shown, resident, anonymous]);
  }
  const note =
    "From the start of the process to Probe's ready, the simulator's ready line (5 ms between two looks) or the first byte; " +
    `median of ${times}, with Deno's cache warm. Memory after ${idle} s without a call.`;
  return table("Start and idle memory", rows, { note });
}

/** The least that any program on Deno takes. */
async function startNothing(): Promise<Started> {
  const args = ["eval", "Deno.stdout.writeSync(new Uint8Array(1)); setInterval(() => {}, 60_000)"];
  const child = new Deno.Command(Deno.execPath(), { args, stdin: "null", stdout: "piped" }).spawn();
  const output = child.stdout.getReader();
  await output.read();
  return {
    pid: child.pid,
    async [Symbol.asyncDispose]() {
      child.kill();
      await Promise.all([output.cancel(), child.status]);
    },
  };
}

/** What a process holds (`VmRSS` and `RssAnon` of /proc/<pid>/status). */
export async function memoryOf(pid: number): Promise<{ resident: string; anonymous: string }> {
  const status = await Deno.readTextFile(`/proc/${pid}/status`);
  const field = (name: string) =>
    `${Math.round(Number(new RegExp(`^${name}:\\s*(\\d+) kB$`, "m").exec(status)?.[1]) / 1024)} MiB`;
  return { resident: field("VmRSS"), anonymous: field("RssAnon") };
}
