import { assert, assertEquals } from "@std/assert";

interface Dependency {
  isDynamic?: boolean;
  code?: { specifier: string };
}

interface Graph {
  roots: string[];
  modules: { specifier: string; dependencies?: Dependency[] }[];
}

/** All that is loaded before the first line of a file runs, and the files that do not come without being asked for. */
async function loaded(file: string): Promise<{ modules: Set<string>; late: string[] }> {
  const args = ["info", "--json", new URL(file, import.meta.url).pathname];
  const { stdout } = await new Deno.Command(Deno.execPath(), { args }).output();
  const graph: Graph = JSON.parse(new TextDecoder().decode(stdout));
  const known = new Map(graph.modules.map(({ specifier, dependencies }) => [specifier, dependencies ?? []]));
  const modules = new Set<string>();
  const late: string[] = [];
  const waiting = [...graph.roots];
  for (let next = waiting.pop(); next !== undefined; next = waiting.pop()) {
    if (modules.has(next)) continue;
    modules.add(next);
    for (const { isDynamic, code } of known.get(next) ?? []) {
      if (code) (isDynamic ? late : waiting).push(code.specifier);
    }
  }
  return { modules, late };
}

Deno.test("startNode() comes without Kubernetes' client library, which takes 40 MB", async () => {
  const { modules, late } = await loaded("./node.ts");
  assertEquals([...modules].filter((each) => each.includes("client-node")), []);
  assertEquals(late.map((each) => each.replace(/^.*\//, "")), ["kubeconfig.ts"]);
  const kubeconfig = (await loaded("./kube/kubeconfig.ts")).modules;
  assert([...kubeconfig].some((each) => each.includes("client-node")), "the test sees the library where it is");
});
