import { settings } from "../config.ts";
import type { Config } from "../config_read.ts";
import { Commands } from "../runtime/command.ts";
import { abortable, Deadline } from "../runtime/deadline.ts";
import { FailedPrecondition, messageOf } from "../runtime/errors.ts";
import { standardLimit } from "./check.ts";
import { type Circumstances, controllerReport, nodeReport } from "./diagnose.ts";
import { addressOf, fetchText } from "./exposition.ts";
import { nodeWorld } from "./node_world.ts";
import { write } from "./print.ts";
import { jsonReport, type Report, textReport } from "./report.ts";
import { withoutSecrets } from "./secrets.ts";
import { type Entry, gzip, tar } from "./tar.ts";
import { start, tools } from "./tools.ts";

/** Bytes of a log that are taken, from its end. */
const logBytes = 1024 * 1024;

/** Where the kubelet puts a pod's token. */
const tokenFile = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/** Gathers, and writes the archive. The exit status is 0 when that is done, whatever the reports in it say. */
export async function bundleCommand(config: Config, circumstances: Circumstances): Promise<number> {
  const { file } = config;
  if (file === "-" && Deno.stdout.isTerminal()) {
    throw new FailedPrecondition("the archive is not for the screen: say '> bundle.tar.gz' behind it, or --file=…");
  }
  const time = new Date();
  const bytes = await gzip(tar(await gather(config, { ...circumstances, time }), time));
  if (file === "-") write(bytes);
  else await Deno.writeFile(file, bytes, { createNew: true, mode: 0o600 });
  return 0;
}

/** The archive's files, secrets taken out. What could not be had is named in the file `README.txt`. */
export async function gather(config: Config, circumstances: Circumstances & { time: Date }): Promise<Entry[]> {
  const missing: string[] = [];
  const entries: Entry[] = [];
  for (const [name, make] of Object.entries(makersOf(config, circumstances))) {
    try {
      using deadline = new Deadline(4 * standardLimit, name, circumstances.signal);
      const text = await abortable(make(deadline.signal), deadline.signal);
      if (text !== undefined) entries.push({ name, text });
    } catch (error) {
      missing.push(`${name}: ${messageOf(error)}`);
    }
  }
  const names = entries.map(({ name }) => name);
  entries.unshift({ name: "README.txt", text: readme(config, { ...circumstances, names, missing }) });
  const known = await secretsOf(config);
  const folder = `rds-csi-${circumstances.time.toISOString().slice(0, 19).replaceAll(/[-:]/g, "")}`;
  return entries.map(({ name, text }) => ({ name: `${folder}/${name}`, text: withoutSecrets(text, known) }));
}

type Maker = (signal: AbortSignal) => Promise<string | undefined>;

/** How each file is made; undefined: there is nothing of the kind here. */
function makersOf(config: Config, circumstances: Circumstances): Record<string, Maker> {
  const reports = new Map<string, Promise<Report>>();
  const report = (name: "node" | "controller", signal: AbortSignal) => {
    const look = name === "node" ? nodeReport : controllerReport;
    const asked = reports.get(name) ?? look(config, { ...circumstances, signal });
    reports.set(name, asked);
    return asked;
  };
  const makers: Record<string, Maker> = {
    "versions.json": (signal) => versions(config, circumstances.version, signal),
    "settings.json": () => Promise.resolve(json(chosen(config))),
    "metrics.txt": async (signal) => (await fetchText(addressOf(config.metricsAddress), "/metrics", signal)).text,
  };
  for (const name of subjectsOf(config)) {
    makers[`${name}.txt`] = async (signal) => textReport(await report(name, signal), { colour: false });
    makers[`${name}.json`] = async (signal) => jsonReport(await report(name, signal));
  }
  if (subjectsOf(config).includes("node")) makers["volumes.json"] = (signal) => volumes(config, circumstances, signal);
  for (const path of config.logs) makers[`logs/${path.replaceAll("/", "_").slice(-80)}`] = () => endOf(path);
  return makers;
}

/** Of what something can be said here: a node where it is named, RouterOS where it is known. */
function subjectsOf({ nodeId, rdsAddress }: Config): ("node" | "controller")[] {
  const isKnown = (value: string | undefined) => value !== undefined;
  const subjects: ("node" | "controller")[] = [];
  if (isKnown(nodeId) || !isKnown(rdsAddress)) subjects.push("node");
  if (isKnown(rdsAddress)) subjects.push("controller");
  return subjects;
}

function chosen(config: Config): Record<string, unknown> {
  const given = Object.entries(settings).map(([name, { flag }]) => [flag, config[name as keyof Config]]);
  return Object.fromEntries(given.filter(([, value]) => value !== undefined));
}

async function versions(config: Config, version: string, signal: AbortSignal): Promise<string> {
  const commands = new Commands();
  const started = await Promise.all(tools.map(async (tool) => {
    const { version, why } = await start(commands, tool, signal).catch((error) => ({
      version: undefined,
      why: messageOf(error),
    }));
    return [tool.program, version ?? why ?? "there"];
  }));
  const kernel = await Deno.readTextFile(`${config.procRoot}/sys/kernel/osrelease`).catch(messageOf);
  const { deno, v8 } = Deno.version;
  return json({
    "rds-csi": version,
    deno,
    v8,
    ...Deno.build,
    kernel: kernel.trim(),
    tools: Object.fromEntries(started),
  });
}

/** What sysfs and the records say of each volume. */
async function volumes(config: Config, circumstances: Circumstances, signal: AbortSignal): Promise<string> {
  const world = nodeWorld(config, circumstances);
  const { sights } = await world.look(signal);
  const shown = [...sights].map(([volumeId, { sessions, record, nodes, mounts }]) => {
    const numbers = new Set(sessions.flatMap(({ namespaces }) => namespaces.map(({ majorMinor }) => majorMinor)));
    if (record) numbers.add(record.majorMinor);
    return { volumeId, sessions, record, nodes, mounts: mounts.filter(({ majorMinor }) => numbers.has(majorMinor)) };
  });
  return json(shown);
}

async function endOf(path: string): Promise<string> {
  using file = await Deno.open(path);
  const { size } = await file.stat();
  await file.seek(Math.max(0, size - logBytes), Deno.SeekMode.Start);
  const bytes = new Uint8Array(Math.min(size, logBytes));
  let at = 0;
  for (let read; at < bytes.length && (read = await file.read(bytes.subarray(at))) !== null;) at += read;
  return new TextDecoder().decode(bytes.subarray(0, at));
}

/** The contents of files that hold secrets, so that they are found wherever they stand. */
async function secretsOf({ rdsKeyFile, kubeconfig }: Config): Promise<string[]> {
  const read = (path: string) => Deno.readTextFile(path).catch(() => "");
  const [key, token, credentials] = await Promise.all([read(rdsKeyFile), read(tokenFile), read(kubeconfig ?? "")]);
  const values = (credentials ?? "").matchAll(/(?:token|password|client-key-data):\s*["']?([^\s"']+)/g);
  return [key ?? "", token ?? "", ...[...values].map(([, value]) => value ?? "")].filter((text) => text !== "");
}

function readme(
  { namespace = "<namespace>" }: Config,
  { version, time, names, missing }: {
    version: string;
    time: Date;
    names: readonly string[];
    missing: readonly string[];
  },
): string {
  return [
    `Made by rds-csi ${version} at ${time.toISOString()}.`,
    "Keys, passwords and tokens were taken out as far as they are known or look like it. Names of claims, nodes and",
    "addresses are in it: look before you send it to somebody.",
    "",
    "In it:",
    ...names.map((name) => `  ${name}`),
    ...(missing.length > 0 ? ["", "Not to be had:", ...missing.map((each) => `  ${each}`)] : []),
    "",
    "The logs of pods are not readable from inside. Add:",
    `  kubectl -n ${namespace} logs <pod> --all-containers --timestamps --tail=5000`,
    `  kubectl -n ${namespace} logs <pod> --all-containers --previous`,
    "  kubectl get events -A | grep -i rds",
    "and of the node: dmesg --ctime",
    "",
  ].join("\n");
}

function json(value: unknown): string {
  const plain = (_: string, value: unknown) => typeof value === "bigint" ? value.toString() : value;
  return `${JSON.stringify(value, plain, 2)}\n`;
}
