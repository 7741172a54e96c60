import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { loadYaml } from "@kubernetes/client-node";
import dashboard from "../../deploy/chart/files/dashboard.json" with { type: "json" };
import { promtool } from "../lab/promtool.ts";
import { project } from "../lab/project.ts";
import { CHART, manifestsFile, objectsOf } from "./chart.ts";
import { said } from "./tools.ts";

const ALERTS = `${CHART}/files/alerts.yaml`;
const CASES = "tests/chart/alerts_cases.yaml";

/** An alert of the file of rules. */
interface Alert {
  alert: string;
  expr: string;
  labels: { severity: string };
  annotations: { summary: string; description: string; runbook: string };
}

async function text(path: string): Promise<string> {
  return await Deno.readTextFile(new URL(path, project));
}

async function alerts(): Promise<Alert[]> {
  const file = loadYaml(await text(ALERTS)) as { groups: { rules: Alert[] }[] };
  return file.groups.flatMap(({ rules }) => rules);
}

/** The program's metrics, as the reference page has them, which a test keeps as the code is: name → labels. */
async function metrics(): Promise<Map<string, { type: string; labels: string[] }>> {
  const rows = (await text("docs/reference/metrics.md")).matchAll(/^\| `(rds_csi_\w+)` \| (\w+) \| ([^|]*) \|/gm);
  return new Map([...rows].map(([, name = "", type = "", labels = ""]) => {
    return [name, { type, labels: [...labels.matchAll(/`(\w+)`/g)].map(([, label]) => label ?? "") }];
  }));
}

/** What is wrong with the metrics that an expression names. */
async function faults(expressions: readonly string[]): Promise<string[]> {
  const known = await metrics();
  return expressions.flatMap((expression) =>
    [...expression.matchAll(/(rds_csi_\w+)(?:\{(\w+))?/g)].flatMap(([, name = "", label]) => {
      const base = name.replace(/_(bucket|sum|count)$/, "");
      const metric = known.get(name) ?? (known.get(base)?.type === "histogram" ? known.get(base) : undefined);
      if (!metric) return [`there is no ${name}`];
      return label === undefined || metric.labels.includes(label) ? [] : [`${name} has no label ${label}`];
    })
  );
}

const shown = dashboard.panels.flatMap((panel) =>
  "targets" in panel ? panel.targets?.map(({ expr }) => expr) ?? [] : []
);

Deno.test("promtool finds nothing wrong with the alerts", async () => {
  await said(await promtool(), "check", "rules", "--lint=all", "--lint-fatal", ALERTS);
});

Deno.test("each alert fires when it should and not before: promtool runs their unit tests", async () => {
  await said(await promtool(), "test", "rules", CASES);
});

Deno.test("each alert has a unit test", async () => {
  const cases = await text(CASES);
  const without = (await alerts()).filter(({ alert }) => !cases.includes(`alertname: ${alert}\n`));
  assertEquals(without.map(({ alert }) => alert), []);
});

Deno.test("alerts and dashboard name metrics and labels that the program has", async () => {
  assertEquals(await faults((await alerts()).map(({ expr }) => expr)), []);
  assert(shown.length > 30);
  assertEquals(await faults(shown), []);
  assertEquals(await faults(['rds_csi_nothing_total{a="b"}', 'rds_csi_leader{a="b"}']), [
    "there is no rds_csi_nothing_total",
    "rds_csi_leader has no label a",
  ]);
});

Deno.test("every expression of the dashboard is one that promtool understands", async () => {
  const expressions = shown.map((expr) => expr.replaceAll("$__rate_interval", "5m"));
  const rules = expressions.map((expr, number) => ({ record: `rds_csi:panel:${number}`, expr }));
  const path = await Deno.makeTempFile({ suffix: ".yaml" });
  try {
    await Deno.writeTextFile(path, JSON.stringify({ groups: [{ name: "dashboard", rules }] }));
    await said(await promtool(), "check", "rules", path);
  } finally {
    await Deno.remove(path);
  }
});

/** The anchor that a heading has on the pages of the usual forges. */
function anchor(heading: string): string {
  return heading.toLowerCase().replace(/[^\w\- ]/g, "").replaceAll(" ", "-");
}

Deno.test("each alert says how bad it is, and where in the guide its remedy stands", async () => {
  const guide = "docs/guides/troubleshooting.md";
  const anchors = [...(await text(guide)).matchAll(/^## (.*)$/gm)].map(([, heading]) =>
    `${guide}#${anchor(heading ?? "")}`
  );
  for (const { alert, labels, annotations } of await alerts()) {
    assert(["critical", "warning", "info"].includes(labels.severity), alert);
    assert(anchors.includes(annotations.runbook), `${alert}: ${annotations.runbook} is not there`);
  }
});

Deno.test("the PrometheusRule and the dashboard's ConfigMap have the files as they are", async () => {
  const objects = objectsOf(await text(manifestsFile("full")));
  const rule = objects.find(({ kind }) => kind === "PrometheusRule") as { spec?: unknown } | undefined;
  assertEquals(rule?.spec, loadYaml(await text(ALERTS)));
  const map = objects.find(({ metadata }) => metadata.name === "rds-csi-dashboard");
  assertEquals(JSON.parse(map?.data?.["rds-csi.json"] ?? ""), dashboard);
  assertStringIncludes(await text(manifestsFile("full")), "grafana_dashboard");
});
