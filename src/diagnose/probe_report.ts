import type { Asked, Probed } from "./probe.ts";

/** What `--output=json` has in its field `schema`. */
export const probeSchema = "rds-csi/probe/v1";

/** Questions that are settings of the simulator, in its own words: with them it does as the device does. */
const guesses = new Set([
  ...["uniqueSlots", "uniqueFiles", "uniqueNqns", "renamesExports", "longestSlot", "sizeOnExistingFile"],
  ...["preallocated", "makesFolders", "removesUsedFiles", "leadingSlash", "growth", "outlivesChannel", "noRows"],
  ...["jsonDecimals", "failureStatus", "failuresOnStderr", "maxChannels"],
]);

/** The answers as the simulator takes them: `--guesses=…`. */
export function asGuesses({ asked }: Probed): string {
  const known = asked.filter(({ name, answer }) =>
    answer !== undefined && guesses.has(name) && answer.value !== "other"
  );
  return known.map(({ name, answer }) => `${name}=${answer?.value}`).join(",");
}

/** One JSON object. */
export function jsonProbe(probed: Probed, { version, time }: { version: string; time: Date }): string {
  const { device, asked, left } = probed;
  const head = { schema: probeSchema, version, time: time.toISOString(), device, guesses: asGuesses(probed) };
  const questions = asked.map(({ answer, why, ...rest }) => ({ ...rest, answer: answer ?? null, why: why ?? null }));
  return `${JSON.stringify({ ...head, left: left ?? null, questions }, undefined, 2)}\n`;
}

/** A table in Markdown, to be sent with a report. */
export function textProbe(probed: Probed, { version, time }: { version: string; time: Date }): string {
  const { version: routerOs, board, architecture } = probed.device;
  const rows = probed.asked.map(rowOf);
  const widths = [0, 1, 2, 3].map((column) => Math.max(...[head, ...rows].map((row) => row[column]?.length ?? 0)));
  const line = (row: readonly string[]) => `| ${row.map((cell, at) => cell.padEnd(widths[at] ?? 0)).join(" | ")} |`;
  const rule = `| ${widths.map((width) => "-".repeat(width)).join(" | ")} |`;
  return [
    `RouterOS ${routerOs} on ${board} (${architecture}), asked by rds-csi ${version}, ${time.toISOString()}`,
    "",
    ...[line(head), rule, ...rows.map(line)],
    "",
    `The simulator does the same with --guesses=${asGuesses(probed)}`,
    ...(probed.left === undefined ? ["The scratch disk is removed."] : ["", `NOT REMOVED: ${probed.left}`]),
    "",
  ].join("\n");
}

const head = ["question", "answer", "seen", "ms"];

function rowOf({ name, asks, answer, why, milliseconds }: Asked): string[] {
  const plain = (text: string) => text.replaceAll("|", "/").replaceAll(/\s+/g, " ");
  const seen = answer ? answer.seen : `not asked: ${why ?? ""}`;
  return [`${name}: ${asks}`, answer ? String(answer.value) : "?", plain(seen).slice(0, 160), String(milliseconds)];
}
