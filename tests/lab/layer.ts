/** What a layer of tests has done. */
export interface Counts {
  passed: number;
  failed: number;
  /** What was left out, each with the reason. */
  skipped: readonly string[];
}

/** Tests that need the same things of the machine. */
export interface Layer {
  name: string;
  /** What it shows, in a few words. */
  about: string;
  /** Gets what it needs, where that can be done. Answers what is missing and how to get it; `undefined` when all is there. */
  needs(): Promise<string | undefined>;
  run(): Promise<Counts>;
}

/** A layer and what came of it. */
export interface Result extends Counts {
  name: string;
  /** Why it did not run at all. */
  missing?: string | undefined;
  seconds: number;
}

/** Gets what a layer needs and runs it. A layer that throws has failed, once. */
export async function runLayer(layer: Layer): Promise<Result> {
  const started = performance.now();
  const result = await outcome(layer);
  return { name: layer.name, ...result, seconds: Math.round((performance.now() - started) / 1000) };
}

async function outcome(layer: Layer): Promise<Counts & { missing?: string }> {
  try {
    const missing = await layer.needs();
    if (missing !== undefined) return { passed: 0, failed: 0, skipped: [missing], missing };
    return await layer.run();
  } catch (error) {
    print(`${layer.name}: ${error instanceof Error ? error.stack : error}\n`);
    return { passed: 0, failed: 1, skipped: [] };
  }
}

/**
 * The text at the end of a run; its last line is `N passed, N failed`, and `, N skipped` when something was.
 * @param requireAll a skip is a failure
 */
export function summary(results: readonly Result[], requireAll: boolean): { text: string; ok: boolean } {
  const lines = ["", "Summary"];
  const sum = { passed: 0, failed: 0, skipped: 0 };
  for (const { name, passed, failed, skipped, missing, seconds } of results) {
    lines.push(
      `  ${name.padEnd(12)} ${
        missing === undefined ? counted({ passed, failed, skipped: skipped.length }) : "did not run"
      }, ${seconds} s`,
    );
    for (const reason of skipped) lines.push(`    skipped: ${reason}`);
    sum.passed += passed;
    sum.failed += failed + (requireAll ? skipped.length : 0);
    sum.skipped += skipped.length;
  }
  if (requireAll && sum.skipped > 0) lines.push("RDS_CSI_REQUIRE=all: what was skipped counts as failed.");
  if (sum.passed === 0) lines.push("Nothing passed: nothing was tested.");
  lines.push(counted(sum));
  return { text: `${lines.join("\n")}\n`, ok: sum.failed === 0 && sum.passed > 0 };
}

function counted({ passed, failed, skipped }: { passed: number; failed: number; skipped: number }): string {
  return `${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ""}`;
}

/** Writes to the standard output. */
export function print(text: string): void {
  Deno.stdout.writeSync(new TextEncoder().encode(text));
}
