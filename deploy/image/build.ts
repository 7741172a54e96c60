import { Commands } from "../../src/runtime/command.ts";
import { fromFileUrl, project } from "../lab/project.ts";

const main = fromFileUrl(new URL("main.ts", project));

/** Runs this Deno and gives what it wrote. @throws with all of it, when it fails */
export async function deno(args: readonly string[], options: { cwd?: string; env?: Record<string, string> } = {}) {
  const command = new Deno.Command(Deno.execPath(), {
    args: [...args],
    cwd: options.cwd ?? fromFileUrl(project),
    env: { NO_COLOR: "1", ...options.env },
    stdin: "null",
  });
  const { success, stdout, stderr } = await command.output();
  const text = new TextDecoder().decode(stdout);
  if (!success) throw new Error(`deno ${args.join(" ")} failed:\n${text}${new TextDecoder().decode(stderr)}`);
  return text;
}

/**
 * Bundles the program into a folder: `main.js` and its parts.
 * @returns the path of `main.js`
 */
export async function bundle(folder: string): Promise<string> {
  // Optional native parts of ssh2, which are not used.
  const native = ["cpu-features", "./crypto/build/Release/sshcrypto.node"].map((name) => `--external=${name}`);
  await deno(["bundle", "--quiet", "--code-splitting", `--outdir=${folder}`, ...native, main]);
  const cjs = "const __filename = import.meta.filename, __dirname = import.meta.dirname;\n";
  for await (const { name } of Deno.readDir(folder)) {
    const part = `${folder}/${name}`;
    const text = await Deno.readTextFile(part);
    if (/\b__(?:dirname|filename)\b/.test(text)) await Deno.writeTextFile(part, cjs + text);
  }
  return `${folder}/main.js`;
}

/**
 * Compiles the program. Deno itself stands in for its smaller runtime part where that cannot be downloaded, so the result
 * shows that compiling works and is not to be given to anybody.
 */
export async function compile(output: string): Promise<void> {
  const { npmCache } = JSON.parse(await deno(["info", "--json"]));
  await deno([
    "compile",
    "--no-prompt",
    "-P=node",
    `--output=${output}`,
    ...(await needlessFolders(npmCache)).map((folder) => `--exclude=${folder}`),
    main,
  ], { env: { DENORT_BIN: Deno.execPath() } });
}

/** Test data of a package of prom-client's that are too large for the compiler's stack. */
async function needlessFolders(npmCache: string): Promise<string[]> {
  const { stdout } = await new Commands().run("find", [npmCache, "-type", "d", "-path", "*/bintrees/*/test"], {
    deadline: 60_000,
  });
  return stdout.split("\n").filter((line) => line !== "");
}
