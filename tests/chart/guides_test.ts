import { assertEquals, assertExists, assertStringIncludes } from "@std/assert";
import { loadYaml } from "@kubernetes/client-node";
import { kubernetesTool } from "../lab/kubernetes/tools.ts";
import { project } from "../lab/project.ts";
import { manifestsFile, objectsOf, render, type Values } from "./chart.ts";
import { said } from "./tools.ts";

/** The blocks of YAML in the guide, under the heading that they stand under. */
async function blocks(heading: string): Promise<string[]> {
  const guide = await Deno.readTextFile(new URL("docs/guides/install.md", project));
  const section = guide.split(/^## /m).find((part) => part.startsWith(heading)) ?? "";
  return [...section.matchAll(/^```yaml\n(.*?)^```$/gms)].map(([, block]) => block ?? "");
}

Deno.test("the guide's values are enough for the chart, and its images come from where they say", async () => {
  const [values] = await blocks("Before");
  const [watching] = await blocks("Watching it");
  const given = { ...loadYaml(values ?? "") as Values, ...loadYaml(watching ?? "") as Values };
  const text = await render(given);
  const images = [...text.matchAll(/^ +image: (\S+)$/gm)].map(([, image]) => image?.split(":")[0]);
  assertEquals([...new Set(images)].sort(), [
    "registry.example.com/rds-csi",
    "registry.example.com/sig-storage/csi-attacher",
    "registry.example.com/sig-storage/csi-provisioner",
    "registry.example.com/sig-storage/csi-resizer",
  ]);
  const kinds = objectsOf(text).map(({ kind }) => kind);
  for (const kind of ["ServiceMonitor", "PrometheusRule"]) assertEquals(kinds.filter((each) => each === kind), [kind]);
});

Deno.test("the guide's kustomization makes address and images one's own", async () => {
  const [kustomization] = await blocks("Without Helm");
  assertExists(kustomization);
  const folder = await Deno.makeTempDir({ dir: new URL("deploy/", project).pathname, prefix: ".test-" });
  try {
    const own = kustomization.replace("../rds-csi/deploy/manifests", "../manifests");
    await Deno.writeTextFile(`${folder}/kustomization.yaml`, own);
    const { stdout } = await said(await kubernetesTool("kubectl"), "kustomize", folder);
    const images = [...stdout.matchAll(/^ +image: (\S+)$/gm)].map(([, image]) => image ?? "");
    assertEquals(images.filter((image) => !image.startsWith("registry.example.com/")), []);
    const config = objectsOf(stdout).find(({ metadata }) => metadata.name === "rds-csi-config");
    assertEquals([config?.data?.["rds-address"], config?.data?.["rds-user"]], ["10.0.0.1", "csi"]);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("the guide's first volume is of a class that the chart makes", async () => {
  const [volume] = await blocks("A first volume");
  const classes = objectsOf(await Deno.readTextFile(new URL(manifestsFile("default"), project)))
    .filter(({ kind }) => kind === "StorageClass").map(({ metadata }) => metadata.name);
  const named = /storageClassName: (\S+)/.exec(volume ?? "")?.[1] ?? "";
  assertStringIncludes(classes.join(), named);
  assertEquals(objectsOf(volume ?? "").map(({ kind }) => kind), ["PersistentVolumeClaim", "Pod"]);
});
