/**
 * The demo itself: in namespaces of its own with a node, or without a node where the machine allows none.
 * @module
 */
import { Controller, Node } from "../../proto/gen/csi_pb.ts";
import { connect } from "../../src/csi/rpc.ts";
import { hasProgram } from "../lab/debian.ts";
import { type LabDriver, NODE_ID, startController, startDriver } from "../lab/driver.ts";
import { print } from "../lab/layer.ts";
import { type LabProcess, startProcess } from "../lab/process.ts";
import { canGrowExt4 } from "../nvme/node.ts";
import { conclude, leftOut, size, step } from "./steps.ts";
import { type Cluster, type Kind, VolumeLife } from "./volume_life.ts";

const [folder = "", keep = "", whyNoNode = ""] = Deno.args;

type Controllers = Pick<LabDriver, "simulator" | "controller" | "sockets"> & Partial<LabDriver>;

async function start(stack: AsyncDisposableStack): Promise<Controllers> {
  if (whyNoNode === "") return stack.use(await startDriver(folder));
  leftOut.push(`everything on the node: ${whyNoNode}`);
  const settings = { listen: "127.0.0.1:0", pool: `${folder}/pool` };
  const simulator: LabProcess = stack.use(await startProcess({ mode: "simulator", folder, settings }));
  const sockets = { controller: `${folder}/controller/csi.sock`, node: "" };
  const controller = stack.use(await startController(folder, simulator, sockets.controller));
  return { simulator, controller, sockets };
}

/** What can be shown on this machine. */
async function kinds(): Promise<Kind[]> {
  if (whyNoNode !== "") return ["ext4", "block"];
  if (await hasProgram("mkfs.xfs")) return ["ext4", "xfs", "block"];
  leftOut.push("xfs: there is no mkfs.xfs; apt-get install xfsprogs");
  return ["ext4", "block"];
}

async function onNode(life: VolumeLife, kind: Kind): Promise<void> {
  await life.stage();
  await life.publish();
  const checksum = await life.write();
  const canGrow = kind !== "ext4" || await canGrowExt4();
  if (!canGrow) {
    leftOut.push(
      "growing ext4 in use: the kernel wants CAP_SYS_RESOURCE, which this machine withholds; try it on one with all of root's capabilities",
    );
  }
  await life.grow(canGrow);
  await life.stats();
  await life.leave();
  await life.attach();
  await life.stage();
  await life.publish();
  await life.compare(checksum);
  await life.stats();
  await life.leave();
}

async function live(cluster: Cluster, kind: Kind): Promise<void> {
  const life = new VolumeLife(cluster, kind);
  await life.create();
  await life.attach();
  if (whyNoNode === "") await onNode(life, kind);
  else {
    await life.grow(false);
    await life.detach();
  }
  await life.delete();
}

function howToReach({ simulator, sockets }: Controllers): string {
  const { host, port, clientKeyFile } = simulator.simulator;
  const lines = [
    "It goes on running; Ctrl-C ends it and removes everything.",
    `RouterOS:    ssh -i ${clientKeyFile} -p ${port} admin@${host} '/disk print detail'`,
    `controller:  unix://${sockets.controller}`,
  ];
  if (sockets.node) {
    lines.push(`node:        unix://${sockets.node}`);
    lines.push(`its mounts:  nsenter -m -p -t $(pgrep -nf 'mode=node.*${folder}') bash`);
  }
  return lines.join("\n") + "\n";
}

async function leftOver(): Promise<string[]> {
  const found: string[] = [];
  for (const path of [`${folder}/pool`, `${folder}/pool/metal-csi`]) {
    for await (const entry of Deno.readDir(path)) if (entry.isFile) found.push(entry.name);
  }
  return found;
}

async function demo(started: Controllers): Promise<void> {
  using controller = connect(Controller, started.sockets.controller);
  using node = connect(Node, started.sockets.node || started.sockets.controller);
  const cluster = { controller, node, nodeId: NODE_ID, folder: started.standIn?.folder ?? folder };
  await step("      capacity", () => controller.getCapacity({}), (answer) => size(answer.availableCapacity));
  for (const kind of await kinds()) await live(cluster, kind);
  const { entries } = await step(
    "      list",
    () => controller.listVolumes({}),
    ({ entries }) => `${entries.length} volumes`,
  );
  const left = [...entries.map((entry) => entry.volume?.volumeId), ...await leftOver()];
  if (left.length > 0) throw new Error(`the pool is not empty again: ${left.join(", ")}`);
  print("         The pool is empty again.\n");
}

const interrupted = new Promise<"interrupted">((resolve) => {
  for (const signal of ["SIGINT", "SIGTERM"] as const) Deno.addSignalListener(signal, () => resolve("interrupted"));
});

async function main(): Promise<void> {
  await using stack = new AsyncDisposableStack();
  const started = await step("      start simulator, controller and node", () => start(stack));
  try {
    if (await Promise.race([demo(started), interrupted]) === "interrupted") return;
    conclude();
    if (keep !== "keep") return;
    print(howToReach(started));
    await interrupted;
  } catch (error) {
    for (const process of [started.controller, started.node, started.simulator]) {
      if (process) print(`\n--- what the ${process.mode} wrote\n${process.output}\n`);
    }
    throw error;
  }
}

await main();
