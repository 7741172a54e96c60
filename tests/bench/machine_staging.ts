/**
 * NodeStageVolume on a machine with the kernel's NVMe/TCP, emulated: in namespaces of its own. The arguments are how many
 * volumes of each kind are staged, and a folder.
 * @module
 */
import { startMachines } from "../lab/machines/machines.ts";
import { print } from "../lab/layer.ts";
import { fromFileUrl, project } from "../lab/project.ts";
import { attach, makeVolume } from "../nvme/machines_steps.ts";
import { milliseconds, progress, table } from "./figures.ts";
import { head, rowsOf } from "./staged.ts";
import type { Told, Took } from "./staging_in_machine.ts";

async function main(times: number, folder: string): Promise<void> {
  await using lab = await startMachines({ folder, nodes: 1, simulator: { "pool-size": "100G" } });
  const [node] = lab.nodes;
  if (!node) throw new Error("there is no node");
  const told: Told = { ext4: [], xfs: [], block: [] };
  for (const kind of ["ext4", "xfs", "block"] as const) {
    for (let turn = 0; turn <= times; turn++) {
      const { id: volumeId, publishContext } = await attach(lab, await makeVolume(lab, kind), node);
      told[kind].push({ volumeId, publishContext, stagingPath: `/var/lib/kubelet/staging-${volumeId}` });
    }
  }
  // The agent has no part in it.
  await node.killAgent("SIGTERM");
  await node.machine.guest.writeFile("/run/told.json", JSON.stringify(told));
  progress(`  ${times} of each kind`);
  const script = fromFileUrl(new URL("tests/bench/staging_in_machine.ts", project));
  const config = `--config=${fromFileUrl(new URL("deno.json", project))}`;
  const args = ["run", "-A", "--quiet", config, script, "/run/told.json"];
  const { code, stdout, stderr } = await node.machine.guest.run(Deno.execPath(), args, { deadline: 1_200_000 });
  if (code !== 0) throw new Error(`it ended with ${code}: ${stderr}${stdout}`);
  const { samples, startOfAProgram }: Took = JSON.parse(stdout.trim().split("\n").at(-1) ?? "");
  const rows = [head, ...(["ext4", "xfs", "block"] as const).flatMap((kind) => rowsOf(kind, samples[kind]))];
  const note =
    `Medians of ${times}. Kernel NVMe/TCP between two emulated machines on this host (no KVM): \`true\` takes ` +
    `${milliseconds(startOfAProgram)} there. For the proportions, not for the times.`;
  print(table("NodeStageVolume on an emulated machine with the kernel's NVMe/TCP", rows, { note }));
}

await main(Number(Deno.args[0]), Deno.args[1] ?? "");
