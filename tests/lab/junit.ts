/** One test in a JUnit file. */
export interface Case {
  name: string;
  state: "passed" | "failed" | "skipped";
  /** Why it was skipped, where the file says so. */
  reason: string;
}

/** The tests of a JUnit file as `deno test` and Ginkgo write them. @throws when the text is not one */
export function parseJunit(xml: string): Case[] {
  if (!/<testsuites?\b/.test(xml)) throw new Error(`this is no JUnit file: ${xml.slice(0, 200)}`);
  return [...xml.matchAll(/<testcase\b((?:\s+[\w:-]+="[^"]*")*)\s*(?:\/>|>([\s\S]*?)<\/testcase>)/g)].map(
    ([, attributes = "", inside = ""]) => {
      const skipped = /<skipped\b(?:[^>]*?\bmessage="([^"]*)")?/.exec(inside);
      return {
        name: decoded(/\bname="([^"]*)"/.exec(attributes)?.[1] ?? ""),
        state: /<(?:failure|error)\b/.test(inside) ? "failed" : skipped ? "skipped" : "passed",
        reason: decoded(skipped?.[1] ?? ""),
      };
    },
  );
}

const entities: Readonly<Record<string, string>> = { lt: "<", gt: ">", quot: '"', apos: "'", amp: "&" };

function decoded(text: string): string {
  return text.replaceAll(/&(?:#(\d+)|#x([0-9a-fA-F]+)|(\w+));/g, (whole, decimal, hex, name) => {
    if (name) return entities[name] ?? whole;
    return String.fromCodePoint(parseInt(decimal ?? hex, decimal ? 10 : 16));
  });
}
