import { roundedSize } from "./disk_properties.ts";
import { type Row, textOf, type Value } from "./values.ts";

/** Words that are shown without quotes; other texts are quoted. */
const bare = new Set("type fs raid-master raid-type media-interface file-path file-size use last-modified".split(" "));

/** Numbers that are grouped with blanks. */
const grouped = new Set(["size", "free"]);

/** Rows in the text form of `print detail`, as lines: made for people, with all that makes it hard to parse. */
export function showTable(
  rows: readonly { row: Row; number: number; flags: string }[],
  options: { legend: string | undefined; rounded: ReadonlySet<string> | undefined; width: number },
): string[] {
  const { legend, rounded, width } = options;
  const lines = legend === undefined ? [] : [`Flags: ${usedFlags(legend, rows)}`];
  for (const { row, number, flags } of rows) {
    const { comment, ".id": _, ...properties } = row;
    const pairs = Object.entries(properties).map(([name, value]) => {
      return `${name}=${typeof value === "number" && rounded?.has(name) ? roundedSize(value) : shown(name, value)}`;
    });
    const head = `${String(number).padStart(2)} ${legend === undefined ? "" : `${flags.padEnd(2)} `}`;
    if (comment === undefined) lines.push(...wrap(head + pairs.join(" "), width));
    else lines.push(`${head};;; ${textOf(comment)}`, ...wrap(`      ${pairs.join(" ")}`, width));
  }
  return lines;
}

/** One row, a property a line, names right-aligned. */
export function showRow(row: Row): string[] {
  const width = Math.max(0, ...Object.keys(row).map((name) => name.length)) + 2;
  return Object.entries(row).map(([name, value]) => `${name.padStart(width)}: ${textOf(value)}`);
}

function shown(name: string, value: Value): string {
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value === "number") {
    return grouped.has(name) ? String(value).replaceAll(/\B(?=(\d{3})+$)/g, " ") : String(value);
  }
  const text = textOf(value);
  return bare.has(name) && !text.includes(" ") ? text : `"${text.replaceAll(/[\\"$]/g, "\\$&")}"`;
}

/** Cuts at the width, wherever that is: also inside a path or a number. */
function wrap(text: string, width: number): string[] {
  const lines = [text.slice(0, width)];
  for (let at = width; at < text.length; at += width - 6) lines.push(" ".repeat(6) + text.slice(at, at + width - 6));
  return lines;
}

/** Only the letters that a row has are explained; all of them when there are no rows. */
function usedFlags(legend: string, rows: readonly { flags: string }[]): string {
  const used = new Set(rows.flatMap(({ flags }) => [...flags]));
  return rows.length === 0 ? legend : legend.split(/[;,] /).filter((one) => used.has(one[0] ?? "")).join("; ");
}
