/**
 * NodeStageVolume beyond the programs that it runs: in namespaces of its own. The one argument is how many volumes of
 * each kind are staged.
 * @module
 */
import { Node } from "../../proto/gen/csi_pb.ts";
import { nodeService } from "../../src/csi/node.ts";
import { type Client, connect } from "../../src/csi/rpc.ts";
import { CsiServer } from "../../src/csi/server.ts";
import { Commands, type Output, type RunOptions } from "../../src/runtime/command.ts";
import { setupLog } from "../../src/runtime/log.ts";
import { Metrics } from "../../src/runtime/metrics.ts";
import { stagingParts } from "../../src/staging/parts.ts";
import { NODE_ID, PREFIX } from "../lab/driver.ts";
import { print } from "../lab/layer.ts";
import { TestNode } from "../nvme/node.ts";
import type { StandIn } from "../nvme/stand_in.ts";
import { capability } from "./calls.ts";
import { digits, median, milliseconds, progress, table } from "./figures.ts";

/** Runs programs and adds up how long any of them ran, from before its start until its whole output was read. */
class TimedCommands extends Commands {
  readonly #env: Record<string, string>;
  #since = 0;
  #active = 0;
  spent = 0;
  count = 0;

  constructor(env: Record<string, string>) {
    super();
    this.#env = env;
  }

  override async run(program: string, args: readonly string[], options: RunOptions): Promise<Output> {
    this.count++;
    if (this.#active++ === 0) this.#since = performance.now();
    try {
      return await super.run(program, args, { ...options, env: this.#env });
    } finally {
      if (--this.#active === 0) this.spent += performance.now() - this.#since;
    }
  }
}

type Sample = { whole: number; programs: number; count: number };
type Kind = "ext4" | "xfs" | "block";

async function serve(
  standIn: StandIn,
  commands: Commands,
): Promise<{ csi: Client<typeof Node>; stop(): Promise<void> }> {
  const socket = `${standIn.folder}/csi.sock`;
  const server = new CsiServer({ socket, metrics: new Metrics("bench") });
  const { roots, folder } = standIn;
  const parts = stagingParts({ commands, roots, prefix: PREFIX, recordsFolder: `${folder}/volumes` });
  server.add(Node, nodeService(parts, { nodeId: NODE_ID, maxVolumesPerNode: 0 }));
  await server.start();
  const csi = connect(Node, socket);
  return {
    csi,
    async stop() {
      csi[Symbol.dispose]();
      await server.stop(1000);
    },
  };
}

/** Stages a new volume when its device is empty, again after it was unstaged, and once more while it is staged. */
async function stageVolume(csi: Client<typeof Node>, on: { node: TestNode; commands: TimedCommands; kind: Kind }) {
  const { node, commands, kind } = on;
  const { volumeId, stagingPath: stagingTargetPath, publishContext } = await node.volume(kind);
  const request = { volumeId, stagingTargetPath, publishContext, volumeCapability: capability(kind) };
  const samples: Sample[] = [];
  for (let turn = 0; turn < 3; turn++) {
    const [spent, count, began] = [commands.spent, commands.count, performance.now()];
    await csi.nodeStageVolume(request);
    const whole = performance.now() - began;
    samples.push({ whole, programs: commands.spent - spent, count: commands.count - count });
    if (turn !== 1) await csi.nodeUnstageVolume({ volumeId, stagingTargetPath });
  }
  await Deno.remove(node.server.file(publishContext.nvme_nqn ?? ""));
  return samples;
}

function row(what: string, samples: readonly Sample[]): string[] {
  const [whole, programs, beyond] = [
    median(samples.map((sample) => sample.whole)),
    median(samples.map((sample) => sample.programs)),
    median(samples.map((sample) => sample.whole - sample.programs)),
  ];
  const times = [whole, programs, beyond].map(milliseconds);
  return [what, String(samples[0]?.count), ...times, `${digits(100 * beyond / whole)} %`];
}

async function startOfAProgram(commands: Commands): Promise<number> {
  const durations: number[] = [];
  for (let turn = 0; turn < 20; turn++) {
    const began = performance.now();
    await commands.run("true", [], { deadline: 10_000 });
    durations.push(performance.now() - began);
  }
  return median(durations);
}

async function main(times: number): Promise<void> {
  setupLog({ level: "WARN", format: "text" });
  await using node = await TestNode.start();
  const commands = new TimedCommands(node.standIn.env);
  const { csi, stop } = await serve(node.standIn, commands);
  const rows = [["NodeStageVolume", "programs", "whole", "in programs", "beyond them", "share"]];
  for (const kind of ["ext4", "xfs", "block"] as const) {
    progress(`  ${times} × ${kind}`);
    await stageVolume(csi, { node, commands, kind }); // Warms up.
    const samples: Sample[][] = [];
    for (let turn = 0; turn < times; turn++) samples.push(await stageVolume(csi, { node, commands, kind }));
    const whats = kind === "block" ? ["", ", again", ", repeated"] : [", empty device", ", again", ", repeated"];
    for (const [at, what] of whats.entries()) rows.push(row(kind + what, samples.flatMap((each) => each[at] ?? [])));
  }
  const cost = await startOfAProgram(commands);
  await stop();
  const note = `Medians of ${times}. A program counts from before its start until its output is read; \`true\` takes ` +
    `${
      milliseconds(cost)
    } that way. nvme is a stand-in with loop devices; the others are the real ones. Again: after it was unstaged. Repeated: while it is staged.`;
  print(table("NodeStageVolume beyond its programs", rows, { note }));
}

await main(Number(Deno.args[0]));
