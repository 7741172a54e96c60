import { loadAllYaml } from "@kubernetes/client-node";
import { project } from "../lab/project.ts";
import { helmPath, run, said } from "./tools.ts";

/** Where the chart is, from the project's folder. */
export const CHART = "deploy/chart";

/** What the checked-in manifests are rendered from: the values in each folder of `deploy/manifests`. */
export const sets = ["default", "full", "simulator"] as const;
export type Set = (typeof sets)[number];

/** Values of the chart, as far as they are not its defaults. */
export type Values = Readonly<Record<string, unknown>>;

/** The least values that the chart wants. */
export const least: Values = { rds: { managementIP: "192.0.2.1", nqnPrefix: "nqn.2000-02.com.mikrotik:pvc-" } };

const release = ["rds-csi", CHART, "--namespace=rds-csi"];
/** Helm takes it from a cluster, or from how it was built. */
const version = "--kube-version=1.34.2";

function given(values: Values): string[] {
  return Object.entries(values).flatMap(([key, value]) => ["--set-json", `${key}=${JSON.stringify(value)}`]);
}

function valuesFile(set: Set): string {
  return `deploy/manifests/${set}/values.yaml`;
}

/** The file of manifests that a set of values makes. */
export function manifestsFile(set: Set): string {
  return `deploy/manifests/${set}/rds-csi.yaml`;
}

/** Renders the chart. @throws with what Helm says against it */
export async function render(values: Values): Promise<string> {
  return (await said(await helmPath(), "template", ...release, version, ...given(values))).stdout;
}

/** Why the chart is not rendered with these values; undefined when it is. */
export async function whyRefused(values: Values): Promise<string | undefined> {
  const { code, stderr } = await run(await helmPath(), "template", ...release, version, ...given(values));
  return code === 0 ? undefined : stderr;
}

/**
 * Installs the chart into a cluster, or makes another version of what is installed, and waits for nothing.
 * @returns what Helm tells people afterwards
 */
export async function install(values: Values, kubeconfig: string): Promise<string> {
  const args = ["upgrade", "--install", "--create-namespace", ...release, `--kubeconfig=${kubeconfig}`];
  return (await said(await helmPath(), ...args, ...given(values))).stdout.split("NOTES:")[1] ?? "";
}

/** Takes what was installed away. */
export async function uninstall(kubeconfig: string): Promise<void> {
  await said(await helmPath(), "uninstall", "rds-csi", "--namespace=rds-csi", `--kubeconfig=${kubeconfig}`);
}

/** Checks the chart as `helm lint --strict` does. @throws with what it finds */
export async function lint(set: Set): Promise<void> {
  await said(await helmPath(), "lint", "--strict", "--quiet", CHART, version, `--values=${valuesFile(set)}`);
}

/** The text that a set's file of manifests must have. */
export async function manifests(set: Set): Promise<string> {
  const args = ["template", ...release, version, `--values=${valuesFile(set)}`];
  const { stdout } = await said(await helmPath(), ...args);
  return `# Made from ${valuesFile(set)} by \`deno task manifests\`; do not edit.\n${stdout}`;
}

/** Any object of the Kubernetes API, with the parts of it that tests read. */
export interface Rendered {
  apiVersion: string;
  kind: string;
  metadata: { name: string; namespace?: string; labels?: Record<string, string> };
  spec?: {
    template?: { spec: PodSpec };
  };
  data?: Record<string, string>;
  rules?: unknown[];
}

/** A pod's spec. */
export interface PodSpec {
  securityContext?: Record<string, unknown>;
  containers: Container[];
  volumes?: Record<string, unknown>[];
}

/** A container of a pod. */
export interface Container {
  name: string;
  args?: string[];
  env?: EnvVar[];
  volumeMounts?: { name: string; mountPath: string; mountPropagation?: string; readOnly?: boolean }[];
}

/** A variable of a container's environment. */
export interface EnvVar {
  name: string;
  value?: string;
  valueFrom?: { configMapKeyRef?: { name: string; key: string }; fieldRef?: { fieldPath: string } };
}

/** The objects of a text of manifests. */
export function objectsOf(text: string): Rendered[] {
  // Through JSON: the library makes instances of its classes.
  return (JSON.parse(JSON.stringify(loadAllYaml(text))) as (Rendered | null)[]).filter((object) => object !== null);
}

/** The driver's own containers: each with its component (controller, node, simulator). */
export function driverContainers(objects: readonly Rendered[]): { component: string; container: Container }[] {
  return objects.flatMap(({ metadata, spec }) => {
    const container = spec?.template?.spec.containers.find(({ name }) => name === "rds-csi");
    return container ? [{ component: metadata.labels?.["app.kubernetes.io/component"] ?? "", container }] : [];
  });
}

/** The environment that a container gets, on the node `node-1`. @throws when a ConfigMap does not have what it names */
export function environment(container: Container, objects: readonly Rendered[]): Record<string, string> {
  const valueOf = ({ value, valueFrom }: EnvVar): string => {
    const { configMapKeyRef: ref, fieldRef } = valueFrom ?? {};
    if (fieldRef) return "node-1";
    if (!ref) return value ?? "";
    const config = objects.find(({ kind, metadata }) => kind === "ConfigMap" && metadata.name === ref.name);
    const found = config?.data?.[ref.key];
    if (found === undefined) throw new Error(`the ConfigMap ${ref.name} has no ${ref.key}`);
    return found;
  };
  return Object.fromEntries((container.env ?? []).map((variable) => [variable.name, valueOf(variable)]));
}

if (import.meta.main) {
  for (const set of sets) await Deno.writeTextFile(new URL(manifestsFile(set), project), await manifests(set));
}
