import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { type LabFolder, labFolder } from "../lab/folder.ts";
import { type ControlPlane, startControlPlane } from "../lab/kubernetes/control_plane.ts";
import { admin } from "../lab/kubernetes/credentials.ts";
import * as objects from "../lab/kubernetes/objects.ts";
import { kubernetesTool } from "../lab/kubernetes/tools.ts";
import { project } from "../lab/project.ts";
import { install, least, manifestsFile, objectsOf, type Set, sets, uninstall } from "./chart.ts";
import { conform, writeSchemas } from "./kubeconform.ts";
import { oldValues, withoutEffect } from "./old_values.ts";
import { run, said } from "./tools.ts";

const NAMESPACE = "rds-csi";

let folder: LabFolder | undefined;
let controlPlane: ControlPlane | undefined;
let kubeconfig = "";

Deno.test.beforeAll(async () => {
  folder = await labFolder("chart");
  controlPlane = await startControlPlane({ folder: folder.path, users: [], controllers: ["namespace-controller"] });
  kubeconfig = await controlPlane.kubeconfig(admin);
  await kubectl("apply", "-f", "tests/chart/crds.yaml");
  await kubectl("wait", "--for=condition=Established", "--timeout=60s", "crd", "--all");
});

Deno.test.afterAll(async () => {
  await controlPlane?.[Symbol.asyncDispose]();
  await folder?.[Symbol.asyncDispose]();
});

async function kubectl(...args: string[]): Promise<{ stdout: string; stderr: string }> {
  return await said(await kubernetesTool("kubectl"), `--kubeconfig=${kubeconfig}`, ...args);
}

/** A test that needs the API server, which outlives it. */
function test(name: string, fn: () => Promise<void>): void {
  Deno.test({ name, sanitizeOps: false, sanitizeResources: false, fn });
}

/** How many objects a set of manifests has. */
async function count(set: Set): Promise<number> {
  return objectsOf(await Deno.readTextFile(new URL(manifestsFile(set), project))).length;
}

test("the API server takes the manifests 'default' as kubectl applies them, twice", async () => {
  const first = await kubectl("apply", "-k", "deploy/manifests/default", "--validate=strict");
  assertEquals(first.stdout.match(/ created$/gm)?.length, await count("default"));
  const second = await kubectl("apply", "-k", "deploy/manifests/default", "--validate=strict");
  // kubectl says so of every PodDisruptionBudget that is applied again.
  const changed = second.stdout.split("\n").filter((line) => line !== "" && !line.endsWith(" unchanged"));
  assertEquals(changed, ["poddisruptionbudget.policy/rds-csi-controller configured"]);
  assertEquals(first.stderr + second.stderr, "");
});

for (const set of sets) {
  test(`the API server takes every object of '${set}', and knows every field`, async () => {
    const { stdout, stderr } = await kubectl(
      ...["create", "--dry-run=server", "--validate=strict", "--namespace=elsewhere", "-f"],
      await elsewhere(set),
    );
    assertEquals(stdout.match(/ created \(server dry run\)$/gm)?.length, await count(set));
    assertEquals(stderr, "");
  });
}

test("a field that Kubernetes does not know is found", async () => {
  const text = await Deno.readTextFile(await elsewhere("default"));
  const planted = await file("planted", text.replace("hostNetwork: true", "hostNetworks: true"));
  const { code, stderr } = await run(
    ...[await kubernetesTool("kubectl"), `--kubeconfig=${kubeconfig}`, "create", "--dry-run=server"] as const,
    ...["--validate=strict", "--namespace=elsewhere", "-f", planted],
  );
  assertEquals(code, 1);
  assertStringIncludes(stderr, 'unknown field "spec.template.spec.hostNetworks"');
});

test("kubeconform, by what the API server says of its kinds, finds nothing in the manifests, and finds a wrong one", async () => {
  const schemas = `${folder?.path}/schemas`;
  await Deno.mkdir(schemas);
  // What is said of custom kinds comes a moment after they are there.
  const openapi = await controlPlane?.admin.wait("the custom kinds to be described", async () => {
    const { stdout } = await kubectl("get", "--raw", "/openapi/v2");
    return ["ServiceMonitor", "PrometheusRule"].every((kind) => stdout.includes(`"kind":"${kind}"`))
      ? stdout
      : undefined;
  });
  await writeSchemas(schemas, openapi ?? "");
  for (const set of sets) {
    const { code, stdout, stderr } = await conform(schemas, manifestsFile(set));
    assertEquals([code, stdout, stderr], [0, "", ""]);
  }
  const text = await Deno.readTextFile(new URL(manifestsFile("full"), project));
  const planted = await file("misplaced", text.replace(/^( +)hostNetwork: true/m, "$1hostNetworks: true"));
  const { code, stdout } = await conform(schemas, planted);
  assertEquals(code, 1);
  assertStringIncludes(stdout, "hostNetworks");
});

/** A set's manifests with other names and in a namespace that is there, since those of 'default' are there already. */
async function elsewhere(set: Set): Promise<string> {
  const text = await Deno.readTextFile(new URL(manifestsFile(set), project));
  await kubectl(
    "apply",
    "-f",
    await file("namespace", "{apiVersion: v1, kind: Namespace, metadata: {name: elsewhere}}"),
  );
  const renamed = text.replaceAll(/^( +)(name|namespace): rds-csi$/gm, "$1$2: elsewhere")
    .replaceAll(/^( +name: )(rds-csi-(?:controller|node)|rds-nvme\S*|rds\.csi\.srvlab\.io)$/gm, "$1$2-2");
  // A Namespace cannot be made twice, and nothing can be in one that is not there.
  return await file(set, renamed.replace(/^(kind: Namespace\nmetadata:\n {2}name: )\S+/m, "$1again"));
}

async function file(name: string, text: string): Promise<string> {
  const path = `${folder?.path}/${name}.yaml`;
  await Deno.writeTextFile(path, text);
  return path;
}

test("Kubernetes' pod security has nothing against the controller under 'restricted', and names what the node needs", async () => {
  const manifests = await elsewhere("full");
  const metadata = { labels: { "pod-security.kubernetes.io/warn": "restricted" } };
  await controlPlane?.admin.patch(objects.namespaces, { name: "elsewhere" }, { metadata });
  const { stderr } = await kubectl("create", "--dry-run=server", "--namespace=elsewhere", "-f", manifests);
  const [warning = "", ...more] = stderr.split("\n").filter((line) => line !== "");
  assertEquals(more, []);
  assertMatch(
    warning,
    /^Warning: would violate PodSecurity "restricted:latest": host namespaces \(hostNetwork=true\), /,
  );
  assertMatch(warning, /, privileged \(container "rds-csi" must not set securityContext.privileged=true\), /);
  assertEquals(warning.includes("seccompProfile"), false);
});

test("controller and node may do what their roles say, and read no Secret", async () => {
  const may = async (account: string, ...what: string[]) => {
    const as = `--as=system:serviceaccount:${NAMESPACE}:${account}`;
    const can = [`--kubeconfig=${kubeconfig}`, "auth", "can-i", ...what, as, `--namespace=${NAMESPACE}`];
    const { stdout } = await said("sh", "-c", '"$0" "$@" || true', await kubernetesTool("kubectl"), ...can);
    return stdout.trim();
  };
  assertEquals(await may("rds-csi-controller", "patch", "nodes"), "yes");
  assertEquals(await may("rds-csi-node", "patch", "nodes"), "no");
  assertEquals(await may("rds-csi-node", "list", "volumeattachments"), "yes");
  for (const account of ["rds-csi-controller", "rds-csi-node"]) {
    assertEquals(await may(account, "get", "secrets"), "no");
    assertEquals(await may(account, "update", "leases"), "yes");
  }
});

test("helm installs the chart, upgrades to what users of the Go driver's chart have set, says what of it has no effect, and leaves nothing", async () => {
  await kubectl("delete", "--wait", "--ignore-not-found", "-k", "deploy/manifests/default");
  const first = await install(least, kubeconfig);
  assertStringIncludes(first, "logs in to 192.0.2.1 with the Secret rds-csi-secret");
  assertEquals(first.includes("no effect"), false);
  // StorageClasses never change: others have to come in their place.
  const others = [{ name: "rds-nvme-old", volumeBindingMode: "WaitForFirstConsumer" }];
  const second = await install({ ...oldValues, storageClasses: others }, kubeconfig);
  const told = second.split("have no effect:")[1]?.match(/^ {2}[A-Za-z.]+/gm)?.map((line) => line.trim());
  assertEquals(told?.sort(), [...withoutEffect]);
  await uninstall(kubeconfig);
  const kinds = "daemonsets,deployments,services,configmaps,serviceaccounts,roles,rolebindings,poddisruptionbudgets";
  const inNamespace = await kubectl(
    "get",
    kinds,
    "-n",
    NAMESPACE,
    "-o",
    "name",
    "-l",
    "app.kubernetes.io/name=rds-csi",
  );
  const inCluster = await kubectl("get", "csidrivers,storageclasses,clusterroles,clusterrolebindings", "-o", "name");
  assertEquals(inNamespace.stdout, "");
  assertEquals(inCluster.stdout.split("\n").filter((name) => name.includes("rds")), []);
});
