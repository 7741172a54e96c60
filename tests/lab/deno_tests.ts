import { fromFileUrl, project } from "./project.ts";
import { parseJunit } from "./junit.ts";
import type { Counts } from "./layer.ts";

/** Milliseconds that one run of `deno test` may take. */
const LIMIT = 300_000;

/** Runs `deno test` on paths of the project, with everything granted, and counts what it did. */
export async function denoTests(...paths: string[]): Promise<Counts> {
  const report = await Deno.makeTempFile({ prefix: "rds-csi-tests-", suffix: ".xml" });
  try {
    const child = new Deno.Command(Deno.execPath(), {
      args: ["test", "--no-prompt", "--allow-all", "--quiet", `--junit-path=${report}`, ...paths],
      cwd: fromFileUrl(project),
      stdin: "null",
    }).spawn();
    // An interrupted run names the test that hangs.
    const timers = [
      setTimeout(() => child.kill("SIGINT"), LIMIT),
      setTimeout(() => child.kill("SIGKILL"), LIMIT + 10_000),
    ];
    const { success } = await child.status;
    timers.forEach(clearTimeout);
    const cases = parseJunit(await Deno.readTextFile(report).then((text) => text || noTests));
    const failed = cases.filter(({ state }) => state === "failed").length;
    return {
      passed: cases.filter(({ state }) => state === "passed").length,
      // A file that does not even load stands in no report.
      failed: failed === 0 && !success ? 1 : failed,
      skipped: cases.filter(({ state }) => state === "skipped").map(({ name }) => `the test '${name}' left itself out`),
    };
  } finally {
    await Deno.remove(report);
  }
}

const noTests = "<testsuites></testsuites>";
