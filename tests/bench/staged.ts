import { Node } from "../../proto/gen/csi_pb.ts";
import { nodeService } from "../../src/csi/node.ts";
import { type Client, connect } from "../../src/csi/rpc.ts";
import { CsiServer } from "../../src/csi/server.ts";
import { Commands, type Output, type RunOptions } from "../../src/runtime/command.ts";
import { Metrics } from "../../src/runtime/metrics.ts";
import { type StagingOptions, stagingParts } from "../../src/staging/parts.ts";
import { NODE_ID, PREFIX } from "../lab/driver.ts";
import { capability } from "./calls.ts";
import { digits, median, milliseconds } from "./figures.ts";

/** Runs programs and adds up how long any of them ran, from before its start until its whole output was read. */
export class TimedCommands extends Commands {
  readonly #env: Record<string, string>;
  #since = 0;
  #active = 0;
  spent = 0;
  count = 0;

  constructor(env: Record<string, string> = {}) {
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

/** What one stage took: milliseconds. */
export type Sample = { whole: number; programs: number; count: number };
export type Kind = "ext4" | "xfs" | "block";

/** A volume that was given to the node. */
export interface Given {
  volumeId: string;
  stagingPath: string;
  publishContext: Readonly<Record<string, string>>;
}

/** Serves the node's CSI from this process, so that its programs can be timed. */
export async function serve(
  folder: string,
  options: { commands: Commands; roots: StagingOptions["roots"] },
): Promise<{ csi: Client<typeof Node>; stop(): Promise<void> }> {
  const socket = `${folder}/csi.sock`;
  const server = new CsiServer({ socket, metrics: new Metrics("bench") });
  const parts = stagingParts({ ...options, prefix: PREFIX, recordsFolder: `${folder}/volumes` });
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
export async function stageThrice(
  csi: Client<typeof Node>,
  { given, commands, kind }: { given: Given; commands: TimedCommands; kind: Kind },
): Promise<Sample[]> {
  const { volumeId, stagingPath: stagingTargetPath, publishContext } = given;
  const request = { volumeId, stagingTargetPath, publishContext, volumeCapability: capability(kind) };
  const samples: Sample[] = [];
  for (let turn = 0; turn < 3; turn++) {
    const [spent, count, began] = [commands.spent, commands.count, performance.now()];
    await csi.nodeStageVolume(request, { deadline: 300_000 });
    const whole = performance.now() - began;
    samples.push({ whole, programs: commands.spent - spent, count: commands.count - count });
    if (turn !== 1) await csi.nodeUnstageVolume({ volumeId, stagingTargetPath }, { deadline: 300_000 });
  }
  return samples;
}

export const head = ["NodeStageVolume", "programs", "whole", "in programs", "beyond them", "share"];

/** The rows of a kind: each sample has the three turns of {@linkcode stageThrice}. */
export function rowsOf(kind: Kind, samples: readonly Sample[][]): string[][] {
  const whats = kind === "block" ? ["", ", again", ", repeated"] : [", empty device", ", again", ", repeated"];
  return whats.map((what, at) => row(kind + what, samples.flatMap((each) => each[at] ?? [])));
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

/** What a program costs that does nothing, milliseconds. */
export async function startOfAProgram(commands: Commands): Promise<number> {
  const durations: number[] = [];
  for (let turn = 0; turn < 20; turn++) {
    const began = performance.now();
    await commands.run("true", [], { deadline: 10_000 });
    durations.push(performance.now() - began);
  }
  return median(durations);
}
