/**
 * How fast the driver is: Markdown tables on the standard output, what is being done on the standard error.
 * @module
 */
import { messageOf } from "../../src/runtime/errors.ts";
import { labFolder } from "../lab/folder.ts";
import { print } from "../lab/layer.ts";
import { inNamespace, whyNoNamespace } from "../lab/namespace.ts";
import { whyNoGo } from "../lab/go_tools.ts";
import { guestKernel, whyNoMachines } from "../lab/machines/kernel.ts";
import { layerTools } from "../lab/kubernetes/tools.ts";
import { whyNoStandIn } from "../nvme/stand_in.ts";
import { attachments } from "./attachments.ts";
import { calls, mergedReads } from "./calls.ts";
import { machine, progress } from "./figures.ts";
import { laboratory, type Scope } from "./laboratory.ts";
import { listing } from "./listing.ts";
import { starting } from "./starting.ts";

const usage = "deno task bench [--quick]\n  --quick  a fraction of it, to see that it works: its figures say little\n";

async function main(args: readonly string[]): Promise<number> {
  if (args.some((arg) => arg !== "--quick")) {
    print(usage);
    return args.includes("--help") ? 0 : 2;
  }
  const interrupted = new AbortController();
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    Deno.addSignalListener(signal, () => interrupted.abort());
  }
  const { signal } = interrupted;
  try {
    await bench({ quick: args.includes("--quick"), signal });
    return 0;
  } catch (error) {
    progress(signal.aborted ? "\nEnded early; everything is removed." : `The benchmark failed: ${messageOf(error)}`);
    return signal.aborted ? 130 : 1;
  }
}

async function bench(scope: Scope): Promise<void> {
  const began = performance.now();
  await using folder = await labFolder("bench");
  print(await machine());
  progress("Starts and memory");
  print(await starting(`${folder.path}/starting`, scope));
  progress("Creates, reads and deletes");
  await Deno.mkdir(`${folder.path}/calls`);
  {
    await using lab = await laboratory(`${folder.path}/calls`, scope);
    print(await calls(lab));
    print(await mergedReads(lab));
  }
  progress("Many volumes");
  print(await listing(`${folder.path}/listing`, scope));
  progress("Attachments");
  print(await attached(`${folder.path}/attachments`, scope));
  progress("NodeStageVolume");
  await staging(folder.path, scope);
  progress("NodeStageVolume on a machine with the kernel's NVMe/TCP");
  await onMachine(folder.path, scope);
  progress(`Done in ${Math.round((performance.now() - began) / 1000)} s.`);
}

async function attached(folder: string, scope: Scope): Promise<string> {
  const why = await whyNoGo();
  if (why !== undefined) return `Left out: attachments with a real Kubernetes API: ${why}\n`;
  await layerTools();
  return await attachments(folder, scope);
}

async function staging(folder: string, { quick, signal }: Scope): Promise<void> {
  const why = await whyNoNamespace() ?? await whyNoStandIn();
  if (why !== undefined) return print(`Left out: NodeStageVolume: ${why}\n`);
  await apart("staging.ts", [quick ? "2" : "10"], { folder, signal });
}

async function onMachine(folder: string, { quick, signal }: Scope): Promise<void> {
  const why = await whyNoNamespace() ?? await whyNoMachines();
  if (why !== undefined) return print(`Left out: NodeStageVolume on a machine: ${why}\n`);
  await guestKernel();
  await Deno.mkdir(`${folder}/m`);
  await apart("machine_staging.ts", [quick ? "1" : "3", `${folder}/m`], { folder, signal });
}

/** Runs a script in namespaces of its own. */
async function apart(
  script: string,
  args: string[],
  { folder, signal }: { folder: string; signal: AbortSignal },
): Promise<void> {
  const code = await inNamespace(new URL(script, import.meta.url), { args, folder, signal });
  signal.throwIfAborted();
  if (code !== 0) throw new Error(`${script} failed: what it wrote stands above`);
}

Deno.exitCode = await main(Deno.args);
