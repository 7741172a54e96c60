import { settingsPage } from "../../src/config_help.ts";
import { diagnosePage } from "../../src/diagnose/page.ts";
import { reasons } from "../../src/kube/reasons.ts";
import { ControllerMetrics } from "../../src/runtime/controller_metrics.ts";
import type { Metrics } from "../../src/runtime/metrics.ts";
import { NodeMetrics } from "../../src/runtime/node_metrics.ts";
import { parameters } from "../../src/volumes/parameters.ts";
import { chartValuesPage } from "./chart_values.ts";

const root = new URL("../../", import.meta.url);

function parametersPage(): string {
  const rows = parameters.map(({ name, default: standard, help }) =>
    `| \`${name}\` | ${standard && `\`${standard}\``} | ${help} |`
  );
  return [
    "# Parameters of a StorageClass",
    "Made from `src/volumes/parameters.ts` by `deno task docs`; do not edit. A parameter that is not listed is refused by name. " +
    "What the provisioner adds (`csi.storage.k8s.io/…`) is taken and kept in the volume context.",
    ["| parameter | default | meaning |", "| --- | --- | --- |", ...rows].join("\n"),
  ].join("\n\n") + "\n";
}

/** What prom-client knows of a metric. */
interface Known {
  name: string;
  help: string;
  labelNames: string[];
  constructor: { name: string };
}

function known(metrics: Metrics): Known[] {
  return metrics.registry.getMetricsAsArray() as unknown as Known[];
}

function rowOf({ name, help, labelNames, constructor }: Known): string {
  const labels = labelNames.map((label) => `\`${label}\``).join(", ");
  return `| \`${name}\` | ${constructor.name.toLowerCase()} | ${labels} | ${help} |`;
}

function metricsPage(): string {
  const [controller, node] = [new ControllerMetrics(""), new NodeMetrics("")];
  const nothing = () => undefined;
  controller.observe({
    sshQueueLength: () => 0,
    sshConnected: nothing,
    attachmentsAttached: nothing,
    attachmentsClaimed: nothing,
    fencesOwed: () => 0,
    watchAge: nothing,
    activeMigrations: nothing,
    leads: () => false,
  });
  node.observe({ commandsRunning: () => 0, commandsStuck: () => 0, breakersOpen: () => 0 });
  const [ofController, ofNode] = [known(controller), known(node)];
  const isIn = (list: Known[]) => ({ name }: Known) => list.some((other) => other.name === name);
  const table = (rows: Known[]) =>
    ["| metric | type | labels | meaning |", "| --- | --- | --- | --- |", ...rows.map(rowOf)].join("\n");
  return [
    "# Metrics",
    "Made from `src/runtime/metrics.ts`, `controller_metrics.ts` and `node_metrics.ts` beside it by `deno task docs`; do not edit. They are served at `/metrics` " +
    "(`--metrics-address`). Nothing is fetched from anywhere during a scrape; a figure that is not known is absent, never 0. What only one of " +
    "several controllers does is counted by the one that does it: add the replicas up.",
    "## Controller and node",
    table(ofController.filter(isIn(ofNode))),
    "## Controller",
    table(ofController.filter((metric) => !isIn(ofNode)(metric))),
    "## Node",
    table(ofNode.filter((metric) => !isIn(ofController)(metric))),
  ].join("\n\n") + "\n";
}

function eventsPage(): string {
  const rows = Object.entries(reasons).map(([reason, { type, meaning }]) => `| \`${reason}\` | ${type} | ${meaning} |`);
  return [
    "# Events",
    "Made from `src/kube/reasons.ts` by `deno task docs`; do not edit. They stand on the PersistentVolumeClaim (`kubectl describe pvc`), on the " +
    "PersistentVolume where it has no claim, those of a node on the Node, and those of orphans on the CSIDriver object, in the namespace `default`. The same said again counts the event up.",
    ["| reason | type | meaning |", "| --- | --- | --- |", ...rows].join("\n"),
  ].join("\n\n") + "\n";
}

/** The reference pages that come from the code: path from the root of the project, and what must stand there. */
export function pages(): { path: URL; text: string }[] {
  return [
    { path: new URL("docs/reference/settings.md", root), text: settingsPage() },
    { path: new URL("docs/reference/parameters.md", root), text: parametersPage() },
    { path: new URL("docs/reference/metrics.md", root), text: metricsPage() },
    { path: new URL("docs/reference/events.md", root), text: eventsPage() },
    { path: new URL("docs/reference/diagnose.md", root), text: diagnosePage() },
    {
      path: new URL("docs/reference/chart-values.md", root),
      text: chartValuesPage(Deno.readTextFileSync(new URL("deploy/chart/values.yaml", root))),
    },
  ];
}

if (import.meta.main) { for (const { path, text } of pages()) await Deno.writeTextFile(path, text); }
