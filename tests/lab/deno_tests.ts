import { parseJunit } from "./junit.ts";
import { type Counts, print } from "./layer.ts";
import { fromFileUrl, project } from "./project.ts";

/** Milliseconds that one run of `deno test` may take. */
const LIMIT = 300_000;

/** Runs `deno test` on paths of the project, with everything granted, and counts what it did. */
export async function denoTests(...paths: string[]): Promise<Counts> {
  return await run(paths);
}

/** What can be set. */
export interface TestFilesOptions {
  /** How many files at a time; one by default. */
  atOnce?: number;
  /** Milliseconds that each file may take; 300,000 by default. */
  limit?: number;
  /** What each is started by: `unshare` and its arguments. */
  by?: readonly string[];
  /** Files that run as one, in this order, as they share what is slow to start. Names without `_test.ts`. */
  together?: readonly (readonly string[])[];
}

/**
 * Runs the test files of a folder of the project, or of any by its whole path, each in a `deno test` of its own with everything granted, and adds up what they did. A
 * line a file is shown, and of a file that fails all that it wrote.
 */
export async function denoTestFiles(folder: string, options: TestFilesOptions = {}): Promise<Counts> {
  const modules = await Deno.makeTempDir({ prefix: "rds-csi-tests-" });
  try {
    return await runFiles(await asOne(await testFiles(folder), options.together ?? [], modules), options);
  } finally {
    await Deno.remove(modules, { recursive: true });
  }
}

async function runFiles(waiting: string[], options: TestFilesOptions): Promise<Counts> {
  const counts: Counts[] = [];
  const work = async () => {
    for (let file = waiting.shift(); file !== undefined; file = waiting.shift()) {
      counts.push(await runFile(file, options));
    }
  };
  await Promise.all(Array.from({ length: options.atOnce ?? 1 }, work));
  return sumOf(counts);
}

/** What several have done together. */
export function sumOf(counts: readonly Counts[]): Counts {
  return {
    passed: counts.reduce((sum, { passed }) => sum + passed, 0),
    failed: counts.reduce((sum, { failed }) => sum + failed, 0),
    skipped: counts.flatMap(({ skipped }) => skipped),
  };
}

async function testFiles(folder: string): Promise<string[]> {
  const files = [];
  for await (const { name } of Deno.readDir(new URL(`${folder}/`, project))) {
    if (name.endsWith("_test.ts")) files.push(`${folder}/${name}`);
  }
  return files.sort();
}

/** Each file by itself, or in a module that has those that run as one. */
async function asOne(
  files: readonly string[],
  together: readonly (readonly string[])[],
  folder: string,
): Promise<string[]> {
  const modules = await Promise.all(together.map(async (names) => {
    const members = names.map((name) => files.find((file) => file.endsWith(`/${name}_test.ts`)) ?? missing(name));
    const module = `${folder}/${names.join("_")}_test.ts`;
    await Deno.writeTextFile(module, members.map((file) => `import "${new URL(file, project)}";\n`).join(""));
    return { module, members };
  }));
  const taken = modules.flatMap(({ members }) => members);
  return [...files.filter((file) => !taken.includes(file)), ...modules.map(({ module }) => module)];
}

function missing(name: string): never {
  throw new Error(`there is no ${name}_test.ts to run with others`);
}

async function runFile(file: string, options: TestFilesOptions): Promise<Counts> {
  const started = performance.now();
  const output = await Deno.makeTempFile({ prefix: "rds-csi-tests-", suffix: ".txt" });
  try {
    const counts = await run([file], { ...options, output });
    const { passed, failed, skipped } = counts;
    const seconds = Math.round((performance.now() - started) / 1000);
    print(
      `${file.replace(/^\/.*\//, "")}: ${passed} passed, ${failed} failed, ${skipped.length} skipped (${seconds} s)\n`,
    );
    if (failed > 0) print(`${await Deno.readTextFile(output)}\n`);
    return counts;
  } finally {
    await Deno.remove(output);
  }
}

/** @param to.output the file that gets all that is written, also by programs that outlive the tests; else it is shown */
async function run(paths: readonly string[], to: TestFilesOptions & { output?: string } = {}): Promise<Counts> {
  const { limit = LIMIT, output, by = [] } = to;
  const report = await Deno.makeTempFile({ prefix: "rds-csi-tests-", suffix: ".xml" });
  try {
    const test = [
      "test",
      "--config=deno.json",
      "--no-prompt",
      "--allow-all",
      "--quiet",
      `--junit-path=${report}`,
      ...paths,
    ];
    const into = output ? ["sh", "-c", `exec "$0" "$@" >'${output}' 2>&1`] : [];
    const [program = "", ...args] = [...into, ...by, Deno.execPath(), ...test];
    const child = new Deno.Command(program, { args, cwd: fromFileUrl(project), stdin: "null" }).spawn();
    // An interrupted run names the test that hangs.
    const timers = [
      setTimeout(() => child.kill("SIGINT"), limit),
      setTimeout(() => child.kill("SIGKILL"), limit + 10_000),
    ];
    const { success } = await child.status;
    timers.forEach(clearTimeout);
    return countsOf(await Deno.readTextFile(report), success);
  } finally {
    await Deno.remove(report);
  }
}

function countsOf(report: string, success: boolean): Counts {
  const cases = parseJunit(report || "<testsuites></testsuites>");
  const failed = cases.filter(({ state }) => state === "failed").length;
  return {
    passed: cases.filter(({ state }) => state === "passed").length,
    // A file that does not even load stands in no report.
    failed: failed === 0 && !success ? 1 : failed,
    skipped: cases.filter(({ state }) => state === "skipped").map(({ name }) => `the test '${name}' left itself out`),
  };
}
