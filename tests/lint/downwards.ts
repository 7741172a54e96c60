/**
 * Rules of the linter: the rooms of the house import downwards only (docs/architecture.md), and the driver removes nothing
 * recursively.
 * @module
 */

/** The floors of `src/`, the lowest first. Rooms of one floor do not know each other. */
const floors: readonly (readonly string[])[] = [
  ["runtime"],
  ["rds", "nvme", "mounts", "kube", "simulator"],
  ["volumes", "attachments", "staging"],
  ["csi"],
  [""],
];
/** What the rooms beside it may know too: the form of NQNs and ids. */
const shared = new Set(["nvme/nqn.ts"]);

/** Why a file may not import another; `undefined` when it may. Paths begin below the project's folder. */
export function whyNot(importer: string, imported: string): string | undefined {
  const from = placeOf(importer);
  const to = placeOf(imported);
  if (!from) return undefined;
  if (!to) return imported.startsWith("tests/") ? "src imports a test" : undefined;
  if (from.room === to.room) return undefined;
  if (to.room === "simulator" && importer !== "src/simulate.ts") {
    return "only its own mode, tests and the demo know the simulator";
  }
  if (from.room === "simulator" && to.room !== "runtime") return "the simulator knows runtime alone";
  if (to.floor < from.floor || shared.has(to.path)) return undefined;
  return to.floor === from.floor ? "rooms of one floor do not know each other" : "imports point downwards only";
}

/** A file in `src/`: its room ("" for the files that lie in no room) and floor. */
function placeOf(path: string): { room: string; floor: number; path: string } | undefined {
  if (!path.startsWith("src/") || path.endsWith("_test.ts")) return undefined;
  const inside = path.slice("src/".length);
  const slash = inside.indexOf("/");
  const room = slash < 0 ? "" : inside.slice(0, slash);
  const floor = floors.findIndex((rooms) => rooms.includes(room));
  return { room, floor: floor < 0 ? floors.length : floor, path: inside };
}

function check(context: Deno.lint.RuleContext, node: Deno.lint.Node, specifier: unknown): void {
  if (typeof specifier !== "string" || !specifier.startsWith(".")) return;
  const importer = /\/((?:src|tests|proto)\/.*)$/.exec(context.filename)?.[1];
  if (!importer) return;
  const imported = new URL(specifier, `file:///${importer}`).pathname.slice(1);
  const why = whyNot(importer, imported);
  if (why) context.report({ node, message: `${importer} must not import ${imported}: ${why}` });
}

/** A removal with a second argument is recursive, whatever the argument is called. */
function checkRemoval(context: Deno.lint.RuleContext, node: Deno.lint.CallExpression): void {
  const inDriver = /\/src\/(?!simulator\/).*(?<!_test)\.ts$/.test(context.filename);
  const { callee } = node;
  if (!inDriver || callee.type !== "MemberExpression" || callee.property.type !== "Identifier") return;
  const isRemoval = /^(remove|removeSync|rm|rmSync|rmdir|rmdirSync)$/.test(callee.property.name);
  const isFileSystem = callee.object.type === "Identifier" && /^(Deno|fs)$/.test(callee.object.name);
  if (!isRemoval || !isFileSystem || node.arguments.length < 2) return;
  context.report({ node, message: "the driver removes nothing recursively: remove one file or empty folder" });
}

const plugin: Deno.lint.Plugin = {
  name: "house",
  rules: {
    downwards: {
      create: (context) => ({
        ImportDeclaration: (node) => check(context, node, node.source.value),
        ExportNamedDeclaration: (node) => check(context, node, node.source?.value),
        ExportAllDeclaration: (node) => check(context, node, node.source.value),
        ImportExpression: (node) => check(context, node, "value" in node.source ? node.source.value : undefined),
      }),
    },
    "remove-one": { create: (context) => ({ CallExpression: (node) => checkRemoval(context, node) }) },
  },
};
export default plugin;
