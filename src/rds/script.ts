import { InvalidArgument } from "../runtime/errors.ts";

/** The longest value that is put into a script, in characters: longer than any path or NQN, far below a line's limit. */
export const VALUE_LIMIT = 512;
/** The longest script that is sent, in characters. */
export const SCRIPT_LIMIT = 32_768;

const onlyFromHere = Symbol("script");

/**
 * A piece of RouterOS' console language. There is one way to make one, {@linkcode ros}, so that every value in a script
 * was quoted there.
 */
export class Script {
  readonly text: string;

  constructor(key: typeof onlyFromHere, text: string) {
    if (key !== onlyFromHere) throw new TypeError("scripts are made by the template `ros` only");
    this.text = text;
  }
}

/** What may stand in a script: strings are quoted, numbers and sizes are digits, booleans yes or no. */
export type Value = string | number | bigint | boolean | Script;

/**
 * A script from a template: the template's own text is code, every value in it is data.
 * @throws {InvalidArgument} for a value that RouterOS could not be given safely; nothing has been sent then
 */
export function ros(code: TemplateStringsArray, ...values: Value[]): Script {
  let text = code[0] ?? "";
  values.forEach((value, at) => text += literal(value) + (code[at + 1] ?? ""));
  if (text.length > SCRIPT_LIMIT) {
    throw new InvalidArgument(
      `a script of ${text.length} characters is over the limit of ${SCRIPT_LIMIT}: ask for less`,
    );
  }
  return new Script(onlyFromHere, text);
}

/** Scripts one after the other, with `separator` (code) between them. */
export function join(scripts: readonly Script[], separator: ";" | " or " | " and " | " "): Script {
  return new Script(onlyFromHere, scripts.map((script) => script.text).join(separator === ";" ? "; " : separator));
}

/** A POSIX extended regular expression that matches exactly this text, for use inside a larger one. */
export function escapeRegExp(text: string): string {
  return text.replaceAll(/[.*+?^${}()|[\]\\]/g, "\\$&");
}

function literal(value: Value): string {
  if (value instanceof Script) return value.text;
  if (typeof value === "string") return quote(value);
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value === "number" && !Number.isSafeInteger(value)) {
    throw new InvalidArgument(`${value} is not a whole number: RouterOS takes whole numbers only`);
  }
  return value.toString();
}

/** A string between double quotes; RouterOS manual, "Scripting", section on strings: `\`, `"` and `$` are escaped. */
function quote(value: string): string {
  if (value.length > VALUE_LIMIT) {
    throw new InvalidArgument(
      `a value of ${value.length} characters ('${
        value.slice(0, 40)
      }…') is over the limit of ${VALUE_LIMIT}: shorten it`,
    );
  }
  const strange = /[^\x20-\x7e]/.exec(value);
  if (strange) {
    const code = strange[0].charCodeAt(0).toString(16).toUpperCase().padStart(4, "0");
    throw new InvalidArgument(
      `the value ${JSON.stringify(value)} has the character U+${code} at position ${strange.index + 1}: ` +
        "use printable ASCII characters only",
    );
  }
  return `"${value.replaceAll(/[\\"$]/g, "\\$&")}"`;
}
