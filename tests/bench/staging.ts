/**
 * NodeStageVolume beyond the programs that it runs: in namespaces of its own. The one argument is how many volumes of
 * each kind are staged.
 * @module
 */
import { setupLog } from "../../src/runtime/log.ts";
import { print } from "../lab/layer.ts";
import { TestNode } from "../nvme/node.ts";
import { milliseconds, progress, table } from "./figures.ts";
import { head, type Kind, rowsOf, type Sample, serve, stageThrice, startOfAProgram, TimedCommands } from "./staged.ts";

async function main(times: number): Promise<void> {
  setupLog({ level: "WARN", format: "text" });
  await using node = await TestNode.start();
  const { env, folder, roots } = node.standIn;
  const commands = new TimedCommands(env);
  const { csi, stop } = await serve(folder, { commands, roots });
  const staged = async (kind: Kind) => {
    const given = await node.volume(kind);
    const samples = await stageThrice(csi, { given, commands, kind });
    await Deno.remove(node.server.file(given.publishContext.nvme_nqn ?? ""));
    return samples;
  };
  const rows = [head];
  for (const kind of ["ext4", "xfs", "block"] as const) {
    progress(`  ${times} × ${kind}`);
    await staged(kind); // Warms up.
    const samples: Sample[][] = [];
    for (let turn = 0; turn < times; turn++) samples.push(await staged(kind));
    rows.push(...rowsOf(kind, samples));
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
