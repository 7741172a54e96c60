import { loadYaml } from "@kubernetes/client-node";

/** A value of the chart: its path, its default as JSON, and the comment that stands over it. */
interface Value {
  path: string;
  default: string;
  about: string;
}

/** Keys of a block and what stands in it, as deep as it goes. */
type Tree = { [key: string]: unknown };

/** What `path` leads to. */
function at(tree: Tree, path: readonly string[]): unknown {
  return path.reduce<unknown>((value, key) => (value as Tree)[key], tree);
}

/**
 * The values of a `values.yaml` that have a comment over them, in their order. Lists are values as a whole: comments in them
 * explain their items to who reads the file.
 */
export function valuesOf(text: string): Value[] {
  const tree = loadYaml(text) as Tree;
  const values: Value[] = [];
  let comment: string[] = [];
  let path: string[] = [];
  for (const line of text.split("\n")) {
    const [, indent = "", said, key] = /^( *)(?:# ?(.*)|([A-Za-z]\w*):.*)$/.exec(line) ?? [];
    if (said !== undefined) comment.push(said);
    if (key !== undefined && !insideList(tree, path.slice(0, indent.length / 2))) {
      path = [...path.slice(0, indent.length / 2), key];
      const standard = JSON.stringify(at(tree, path));
      if (comment.length > 0) values.push({ path: path.join("."), default: standard, about: comment.join(" ") });
    }
    if (said === undefined) comment = [];
  }
  return values;
}

function insideList(tree: Tree, path: readonly string[]): boolean {
  return path.some((_, depth) => Array.isArray(at(tree, path.slice(0, depth + 1))));
}

/** Paths of all that is no block, lists included. */
function leaves(value: unknown, path = ""): string[] {
  const isBlock = typeof value === "object" && value !== null && !Array.isArray(value);
  const entries = isBlock ? Object.entries(value) : [];
  if (entries.length === 0) return [path];
  return entries.flatMap(([key, inner]) => leaves(inner, path ? `${path}.${key}` : key));
}

/** The values that no comment explains, neither over them nor over the block that they are in. */
export function unexplained(text: string): string[] {
  const explained = valuesOf(text).map(({ path }) => path);
  const isExplained = (leaf: string) => explained.some((path) => leaf === path || leaf.startsWith(`${path}.`));
  return leaves(loadYaml(text)).filter((leaf) => !isExplained(leaf));
}

/** The reference page of the chart's values, in Markdown. */
export function chartValuesPage(text: string): string {
  const values = valuesOf(text);
  const isParent = (path: string) => values.some((other) => other.path.startsWith(`${path}.`));
  const rows = values.map(({ path, default: standard, about }) => {
    const text = standard.length > 120 ? "see values.yaml" : `\`${standard}\``;
    return `| \`${path}\` | ${isParent(path) ? "" : text} | ${about.replaceAll("|", "\\|")} |`;
  });
  return [
    "# Values of the chart",
    "Made from `deploy/chart/values.yaml` by `deno task docs`; do not edit. Whatever is not listed is refused by `values.schema.json`, besides " +
    "what the Go driver's chart had ([coming from it](../guides/from-the-go-driver.md)). Defaults are written as JSON.",
    ["| value | default | meaning |", "| --- | --- | --- |", ...rows].join("\n"),
  ].join("\n\n") + "\n";
}
