/**
 * Makes the program as it ships: compiled into one file, or bundled for Deno to run.
 * @module
 */
import manifest from "../../deno.json" with { type: "json" };

const project = new URL("../../", import.meta.url).pathname;
const main = `${project}main.ts`;

/** The permission set that has what every mode needs: one program is all of them, and each lets go of the rest. */
export const SET = "program";

/** Milliseconds for the slowest step, on a slow network. */
const LIMIT = 1_800_000;

/** Runs a program and gives what it wrote. @throws with all of it, when it fails */
export async function run(
  program: string,
  args: readonly string[],
  options: { cwd?: string; env?: Record<string, string> } = {},
): Promise<string> {
  const command = new Deno.Command(program, {
    args: [...args],
    cwd: options.cwd ?? project,
    env: { NO_COLOR: "1", ...options.env },
    stdin: "null",
    signal: AbortSignal.timeout(LIMIT),
  });
  const { success, stdout, stderr } = await command.output();
  const text = new TextDecoder().decode(stdout);
  if (!success) throw new Error(`${program} ${args.join(" ")} failed:\n${text}${new TextDecoder().decode(stderr)}`);
  return text;
}

/** As {@linkcode run}, with this Deno. */
export async function deno(args: readonly string[], options: { cwd?: string; env?: Record<string, string> } = {}) {
  return await run(Deno.execPath(), args, options);
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
 * Bundles the program into a folder that an image has at `lib`, with the file `rds-csi` that the kernel starts by the help of
 * `env` and Deno.
 */
export async function bundleToStart(folder: string, lib: string): Promise<void> {
  await Deno.mkdir(folder, { recursive: true });
  await Deno.rename(await bundle(folder), `${folder}/rds-csi`);
  const start = `#!/usr/bin/env -S deno run --quiet --no-prompt --config=${lib}/deno.json -P=${SET} --ext=js\n`;
  await Deno.writeTextFile(`${folder}/rds-csi`, start + await Deno.readTextFile(`${folder}/rds-csi`));
  await Deno.chmod(`${folder}/rds-csi`, 0o755);
  await Deno.writeTextFile(
    `${folder}/deno.json`,
    JSON.stringify({ permissions: { [SET]: manifest.permissions[SET] }, lock: false }),
  );
}

/**
 * Compiles the program into one file.
 * @param options.runtime what stands in for Deno's runtime part, which else is downloaded. Deno itself will do to show that
 * compiling works; the result is not to be given to anybody
 * @param options.main another program, with the same permissions
 */
export async function compile(output: string, options: { runtime?: string; main?: string } = {}): Promise<void> {
  const { npmCache } = JSON.parse(await deno(["info", "--json"]));
  const excluded = needlessFolders(npmCache).map((folder) => `--exclude=${folder}`);
  const env = options.runtime === undefined ? {} : { DENORT_BIN: options.runtime };
  await deno(["compile", "--no-prompt", `-P=${SET}`, `--output=${output}`, ...excluded, options.main ?? main], { env });
}

/** Test data of a package of prom-client's that are too large for the compiler's stack. */
function needlessFolders(folder: string): string[] {
  if (/\/bintrees\/[^/]+$/.test(folder)) return [`${folder}/test`];
  const folders = [...Deno.readDirSync(folder)].filter(({ isDirectory }) => isDirectory);
  // Below a package there is nothing to look for.
  return folders.filter(({ name }) => !/^\d+\.\d+\.\d+/.test(name) || folder.endsWith("/bintrees"))
    .flatMap(({ name }) => needlessFolders(`${folder}/${name}`));
}
