import { ConsoleError } from "./syntax.ts";

/** A value of the console; undefined is its `nil`. Ids and times are texts, a row of `as-value` is a {@linkcode Row}. */
export type Value = string | number | boolean | undefined | Value[] | Row;
/** Properties by name. */
export interface Row {
  readonly [name: string]: Value;
}

/** The longest text that may come into being, in characters. */
const LONGEST = 16_777_216;

/** A value as `:put` shows it. */
export function textOf(value: Value): string {
  if (value === undefined) return "";
  if (Array.isArray(value)) return value.map(textOf).join(";");
  if (typeof value !== "object") return String(value);
  return Object.entries(value).map(([name, item]) => `${name}=${textOf(item)}`).join(";");
}

/** `:len` of a value: items of a list, characters of anything else. */
export function lengthOf(value: Value): number {
  return typeof value === "object" && value !== null ? Object.keys(value).length : textOf(value).length;
}

/** Whether a condition holds. @throws {ConsoleError} when the value is neither yes nor no */
export function truthOf(value: Value): boolean {
  if (typeof value === "boolean") return value;
  if (value === undefined || value === "no" || value === "false") return false;
  if (value === "yes" || value === "true") return true;
  throw new ConsoleError("conditional not boolean");
}

/** A number from digits with an optional binary unit (`10G`); undefined for any other text. */
export function numberIn(text: string): number | undefined {
  const [, digits, unit] = /^(-?\d+)(?:([KMGT])(?:i?B)?)?$/.exec(text) ?? [];
  if (digits === undefined) return undefined;
  const number = Number(digits) * 1024 ** (unit ? " KMGT".indexOf(unit) : 0);
  return Number.isSafeInteger(number) ? number : undefined;
}

/** What `:typeof` says. */
export function typeName(value: Value): string {
  if (value === undefined) return "nil";
  if (typeof value === "object") return "array";
  return typeof value === "number" ? "num" : typeof value === "boolean" ? "bool" : "str";
}

/** What a word without quotes means in a calculation. */
export function literal(word: string): Value {
  return word === "true" ? true : word === "false" ? false : numberIn(word) ?? word;
}

/** Joins texts as the operator `.` does. */
export function concatenate(left: string, right: string): string {
  if (left.length + right.length > LONGEST) throw new ConsoleError("failure: out of memory");
  return left + right;
}

/** How `:serialize to=json` writes numbers and texts. */
export interface JsonForm {
  /** Without `json.no-string-conversion` texts that look like numbers or booleans become such. */
  convert: boolean;
  /** Numbers as `2048.000000`. */
  decimals: boolean;
}

/** A value as JSON. */
export function jsonOf(value: Value, form: JsonForm): string {
  if (value === undefined) return '""';
  if (Array.isArray(value)) return `[${value.map((item) => jsonOf(item, form)).join(",")}]`;
  if (typeof value === "number") return form.decimals ? value.toFixed(6) : String(value);
  if (typeof value === "string") {
    const meant = form.convert ? literal(value) : value;
    return typeof meant === "string" ? JSON.stringify(meant) : jsonOf(meant, { ...form, convert: false });
  }
  if (typeof value === "boolean") return String(value);
  const pairs = Object.entries(value).filter(([, item]) => item !== undefined);
  return `{${pairs.map(([name, item]) => `${JSON.stringify(name)}:${jsonOf(item, form)}`).join(",")}}`;
}
