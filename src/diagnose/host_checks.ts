import { tcpModule } from "../nvme/module.ts";
import { messageOf } from "../runtime/errors.ts";
import { type Check, type Finding, ok, unknown } from "./check.ts";
import { found } from "./meanings.ts";
import { folderOf, type NodeWorld } from "./node_world.ts";
import { start, type Started, tools } from "./tools.ts";

/** What the node needs of the machine. */
export function hostChecks(world: NodeWorld): Check[] {
  return [
    { name: "settings", about: "settings of the environment, and the managed NQN prefix", run: () => settings(world) },
    { name: "trees", about: "the host's trees, and the kubelet's folder", run: () => trees(world) },
    { name: "kernel", about: "the kernel and its module for NVMe/TCP", run: (signal) => kernel(world, signal) },
    { name: "tools", about: "the programs that the driver runs, and their versions", run: (s) => programs(world, s) },
  ];
}

/** What is wrong with the environment, the same for node and controller. */
export function settingFindings({ config, problems }: Pick<NodeWorld, "config" | "problems">): Finding[] {
  const findings = problems.map((problem) => found("setting-wrong", problem));
  const isPrefixSaid = problems.some((problem) => problem.includes("CSI_MANAGED_NQN_PREFIX"));
  const prefix = config.managedNqnPrefix as string | undefined;
  if (prefix === undefined) {
    const why = isPrefixSaid ? "cannot be used" : "is not set";
    return [
      ...findings,
      found("prefix-missing", `CSI_MANAGED_NQN_PREFIX ${why}: no session, mount or record is known to be ours`),
    ];
  }
  return findings.length > 0 ? findings : [ok(`volumes are ${prefix}…`)];
}

function settings(world: NodeWorld): Promise<Finding[]> {
  const findings = settingFindings(world);
  const nodeId = world.config.nodeId as string | undefined;
  if (nodeId === undefined && !world.config.standalone) {
    const how = "give it to the container as RDS_CSI_NODE_ID (fieldRef spec.nodeName), or say --node-id here";
    findings.push(unknown("the node's name is not known: what Kubernetes has here cannot be asked", how));
  }
  return Promise.resolve(findings);
}

async function trees({ config }: NodeWorld): Promise<Finding[]> {
  const { procRoot, sysfsRoot, devRoot, kubeletDir } = config;
  const missing: string[] = [];
  const needed = [`${procRoot}/1/mountinfo`, `${sysfsRoot}/class`, devRoot, kubeletDir, folderOf(config.endpoint)];
  for (const path of needed) {
    await Deno.stat(path).catch((error) => missing.push(`${path} (${messageOf(error)})`));
  }
  if (missing.length === 0) return [ok(`${procRoot}, ${sysfsRoot}, ${devRoot} and ${kubeletDir} are there`)];
  const detail = `what is needed of the host cannot be seen: ${missing.join("; ")}`;
  return [found("tree-missing", detail, `${mountsNeeded(config)}\nIn a pod the chart does that: run diagnose there`)];
}

/** What somebody types on a bare host, where the driver's pod is not there to do it. */
export function mountsNeeded(
  { procRoot, sysfsRoot, devRoot, nvmeEtcRoot }: Pick<
    NodeWorld["config"],
    "procRoot" | "sysfsRoot" | "devRoot" | "nvmeEtcRoot"
  >,
): string {
  const trees = [["/proc", procRoot], ["/sys", sysfsRoot], ["/dev", devRoot], ["/etc/nvme", nvmeEtcRoot]];
  const lines = trees.filter(([from, to]) => from !== to).map(([from, to]) =>
    `mkdir -p ${to} && mount --rbind --make-rslave ${from} ${to}`
  );
  return `run diagnose in the driver's pod; on a bare host mount first, as root:\n${lines.join("\n")}`;
}

async function kernel({ config, sysfs }: NodeWorld, signal: AbortSignal): Promise<Finding[]> {
  const release = (await Deno.readTextFile(`${config.procRoot}/sys/kernel/osrelease`).catch(() => "")).trim();
  const known = release ? `Linux ${release}` : "a kernel of an unknown version";
  if (await sysfs.hasModule(tcpModule, { signal })) return [ok(`${known} with NVMe/TCP`)];
  const loads = config.loadModules ? "; the driver was to load it (--load-modules), its log says why it did not" : "";
  return [found("module-missing", `${known} has no module nvme-tcp${loads}`)];
}

async function programs({ config, commands }: NodeWorld, signal: AbortSignal): Promise<Finding[]> {
  const wanted = tools.filter(({ only }) => only === undefined || config[only]);
  const started: Started[] = [];
  const unknowns: Finding[] = [];
  await Promise.all(wanted.map(async (tool) => {
    try {
      started.push(await start(commands, tool, signal));
    } catch (error) {
      unknowns.push(unknown(`${tool.program}: ${messageOf(error)}`));
    }
  }));
  const bad = started.filter(({ why }) => why !== undefined);
  if (bad.length + unknowns.length > 0) {
    return [...bad.map(({ program, why }) => found("tool-missing", `${program}: ${why}`)), ...unknowns];
  }
  const versionOf = (name: string) => started.find(({ program }) => program === name)?.version ?? "of unknown version";
  const shown = ["nvme", "mount", "mke2fs", "mkfs.xfs"].map((name) => `${name} ${versionOf(name)}`).join(", ");
  return [ok(`${wanted.length} programs are there: ${shown}`)];
}
