import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import manifest from "../../deno.json" with { type: "json" };
import { kubernetesTool } from "../lab/kubernetes/tools.ts";
import { clusterRules, namespaceRules, nodeClusterRules, nodeNamespaceRules } from "../lab/kubernetes/rules.ts";
import { project } from "../lab/project.ts";
import {
  CHART,
  driverContainers,
  least,
  lint,
  manifests,
  manifestsFile,
  objectsOf,
  render,
  type Rendered,
  type Set,
  sets,
} from "./chart.ts";
import { said } from "./tools.ts";

async function rendered(set: Set): Promise<Rendered[]> {
  return objectsOf(await Deno.readTextFile(new URL(manifestsFile(set), project)));
}

for (const set of sets) {
  Deno.test(`the manifests '${set}' are what the chart makes: run \`deno task manifests\` after changing it`, async () => {
    assertEquals(await Deno.readTextFile(new URL(manifestsFile(set), project)), await manifests(set));
  });

  Deno.test(`helm lint finds nothing in the chart with the values '${set}'`, () => lint(set));

  Deno.test(`kustomize takes the manifests '${set}' and gives them another namespace throughout`, async () => {
    const folder = await Deno.makeTempDir({ dir: new URL("deploy/", project).pathname, prefix: ".test-" });
    try {
      const text = `namespace: elsewhere\nresources: [../manifests/${set}]\n`;
      await Deno.writeTextFile(`${folder}/kustomization.yaml`, text);
      const { stdout } = await said(await kubernetesTool("kubectl"), "kustomize", folder);
      assertEquals(objectsOf(stdout).length, (await rendered(set)).length);
      const left = stdout.split("\n").filter((line) => /namespace: rds-csi$/.test(line));
      assertEquals(left, []);
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  });
}

Deno.test("the chart has the program's version", async () => {
  const text = await Deno.readTextFile(new URL(`${CHART}/Chart.yaml`, project));
  for (const key of ["version", "appVersion"]) assertStringIncludes(text, `\n${key}: ${manifest.version}\n`);
});

Deno.test("the roles have the rules that the tests on a real API server prove, and nothing else grants any", async () => {
  for (const set of sets) {
    const roles = (await rendered(set)).filter(({ rules }) => rules);
    assertEquals(roles.map(({ kind, metadata: { name }, rules }) => ({ kind, name, rules })), [
      { kind: "ClusterRole", name: "rds-csi-controller", rules: [...clusterRules] },
      { kind: "ClusterRole", name: "rds-csi-node", rules: [...nodeClusterRules] },
      { kind: "Role", name: "rds-csi-controller", rules: [...namespaceRules] },
      { kind: "Role", name: "rds-csi-node", rules: [...nodeNamespaceRules] },
    ]);
  }
});

Deno.test("an image is named by digest where there is one, else by the tag, else by the chart's version", async () => {
  const image = async (values: object) => {
    const { container } = driverContainers(objectsOf(await render({ ...least, image: values })))[0] ?? {};
    return (container as unknown as { image: string }).image;
  };
  const digest = `sha256:${"a".repeat(64)}`;
  assertEquals(await image({ repository: "there/rds-csi" }), `there/rds-csi:${manifest.version}`);
  assertEquals(await image({ repository: "there/rds-csi", tag: "v2" }), "there/rds-csi:v2");
  assertEquals(await image({ repository: "there/rds-csi", tag: "v2", digest }), `there/rds-csi@${digest}`);
});

Deno.test("no manifest names a registry's host or holds a secret", async () => {
  for (const set of ["default", "simulator"] as const) {
    const text = await Deno.readTextFile(new URL(manifestsFile(set), project));
    const images = [...text.matchAll(/^ +image: (\S+)$/gm)].map(([, image]) => image ?? "");
    assert(images.length >= 5);
    for (const image of images) assertMatch(image, /^(rds-csi|sig-storage\/csi-[a-z]+):/);
    assertEquals((await rendered(set)).filter(({ kind }) => kind === "Secret"), []);
  }
});
