/** What is being measured, for whoever waits; the tables alone go to the standard output. */
export function progress(text: string): void {
  Deno.stderr.writeSync(new TextEncoder().encode(`${text}\n`));
}

/** The value that `share` (0 to 1) of all values do not exceed (nearest rank). */
export function percentile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] ?? NaN;
}

export function median(values: readonly number[]): number {
  return percentile(values, 0.5);
}

/** Three significant digits at most, no exponent. */
export function digits(value: number): string {
  if (!Number.isFinite(value)) return "–";
  return value >= 100 ? String(Math.round(value)) : String(Number(value.toPrecision(value < 1 ? 2 : 3)));
}

export function milliseconds(value: number): string {
  return `${digits(value)} ms`;
}

/** A Markdown table under a heading, with a sentence about it. Columns after the first `left` ones hold numbers. */
export function table(
  title: string,
  rows: readonly (readonly string[])[],
  { left = 1, note = "" }: { left?: number; note?: string } = {},
): string {
  const [head = []] = rows;
  const widths = head.map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0), 3));
  const lines = rows.map((row) =>
    `| ${
      widths.map((width, at) => at < left ? (row[at] ?? "").padEnd(width) : (row[at] ?? "").padStart(width)).join(" | ")
    } |`
  );
  lines.splice(1, 0, `| ${widths.map((width, at) => "-".repeat(width - 1) + (at < left ? "-" : ":")).join(" | ")} |`);
  return `### ${title}\n\n${lines.join("\n")}\n${note && `\n${note}\n`}\n`;
}

/** What is measured on: figures of two machines are not to be compared. */
export async function machine(): Promise<string> {
  const cpu = /^model name\s*:\s*(.*)$/m.exec(await Deno.readTextFile("/proc/cpuinfo"))?.[1] ?? Deno.build.arch;
  const [load] = Deno.loadavg();
  return `Measured on ${navigator.hardwareConcurrency} cores (${cpu}), Linux ${Deno.osRelease()}, Deno ${Deno.version.deno}, ` +
    `${new Date().toISOString().slice(0, 10)}; load before it began: ${digits(load ?? NaN)}. Simulator, driver and ` +
    "client share these cores.\n\n";
}
