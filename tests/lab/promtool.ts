import { Commands } from "../../src/runtime/command.ts";
import { messageOf } from "../../src/runtime/errors.ts";
import { cached } from "./cache.ts";
import { hasProgram } from "./debian.ts";
import { print } from "./layer.ts";

const commands = new Commands();
const HOW = "install Prometheus (its promtool) and put it into PATH";

/** Why promtool cannot be had here, and what to do; `undefined` when it is there now. */
export async function whyNoPromtool(): Promise<string | undefined> {
  return await promtool().then(() => undefined, messageOf);
}

/** The path of promtool: what is installed, or what is in Debian's package, unpacked once into the tests' cache. */
export async function promtool(): Promise<string> {
  if (await hasProgram("promtool")) return "promtool";
  if (!await hasProgram("apt-get")) throw new Error(`promtool is missing: ${HOW}`);
  const version = await candidate() ?? (await run("/", "apt-get", "-q", "update"), await candidate());
  if (!version) throw new Error(`Debian has no package 'prometheus' here: ${HOW}`);
  return await cached({ name: "promtool", version }, unpack);
}

/**
 * Checks metrics in Prometheus' text form as `promtool check metrics` does: the form, names, units, help.
 * @throws with what it found
 */
export async function checkMetrics(text: string): Promise<void> {
  const child = new Deno.Command(await promtool(), {
    args: ["check", "metrics"],
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  // Whoever has found enough reads no further.
  const fed = new Blob([text]).stream().pipeTo(child.stdin).catch(() => {});
  const { success, stdout, stderr } = await child.output();
  await fed;
  if (success) return;
  const said = [stdout, stderr].map((bytes) => new TextDecoder().decode(bytes)).join("");
  throw new Error(`promtool finds fault with the metrics:\n${said}`);
}

/** The version that apt would install. */
async function candidate(): Promise<string | undefined> {
  const { stdout } = await commands.run("apt-cache", ["policy", "prometheus"], { deadline: 60_000 });
  return /Candidate: (?!\(none\))(\S+)/.exec(stdout)?.[1];
}

async function unpack(folder: string): Promise<void> {
  print("Unpacking promtool from Debian's package 'prometheus', once\n");
  await run(folder, "apt-get", "-q", "download", "prometheus");
  const [file] = [...Deno.readDirSync(folder)].filter(({ name }) => name.endsWith(".deb"));
  await run(folder, "dpkg", "-x", file?.name ?? "", "unpacked");
  await Deno.rename(`${folder}/unpacked/usr/bin/promtool`, `${folder}/bin/promtool`);
}

async function run(folder: string, program: string, ...args: string[]): Promise<void> {
  const inFolder = ["-C", folder, program, ...args];
  const { code, stdout, stderr } = await commands.run("env", inFolder, { deadline: 300_000 });
  if (code !== 0) throw new Error(`${program} ${args.join(" ")} failed: ${stderr || stdout}`);
}
