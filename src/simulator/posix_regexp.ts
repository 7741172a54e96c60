import { ConsoleError } from "./syntax.ts";

const classes: Record<string, string> = {
  alpha: "A-Za-z",
  digit: "0-9",
  alnum: "A-Za-z0-9",
  upper: "A-Z",
  lower: "a-z",
  space: "\\s",
};

/**
 * A POSIX extended regular expression as one of JavaScript. What POSIX leaves undefined (`\d`, `(?:`, `*?`) is refused,
 * so that nobody comes to rely on it.
 * @throws {ConsoleError} when the text is no such expression
 */
export function posixRegExp(text: string): RegExp {
  const cached = cache.get(text);
  if (cached) return cached;
  try {
    const made = new RegExp(translate(text), "s");
    if (cache.size > 1000) cache.clear();
    cache.set(text, made);
    return made;
  } catch (cause) {
    throw new ConsoleError(`invalid value for argument regexp`, { cause });
  }
}

const cache = new Map<string, RegExp>();

function translate(text: string): string {
  let out = "";
  for (let at = 0; at < text.length;) {
    const rest = text.slice(at);
    const bracket = /^\[(\^?)(\]?(?:\[:[a-z]+:\]|[^\]])*)\]/.exec(rest);
    const piece = bracket ?? /^(\\[^A-Za-z0-9]|\{\d+(,\d*)?\}|[^\\[{])/.exec(rest);
    if (!piece || /^(\(\?|[*+?}]\?|[*+?}][*+])/.test(rest)) throw new SyntaxError(`not POSIX: ${rest.slice(0, 10)}`);
    out += bracket ? `[${bracket[1]}${translateBracket(bracket[2] ?? "")}]` : piece[0].replace(/^[\/}]$/, "\\$&");
    at += piece[0].length;
  }
  return out;
}

/** Inside brackets a backslash is a character like others. */
function translateBracket(text: string): string {
  return text.replaceAll(/\[:([a-z]+):\]|[\\[\]^]/g, (found, name: string | undefined) => {
    if (name === undefined) return `\\${found}`;
    const known = classes[name];
    if (known === undefined) throw new SyntaxError(`no class ${name}`);
    return known;
  });
}
