import { assert, assertEquals, assertExists, assertStringIncludes } from "@std/assert";
import fc from "fast-check";
import manifest from "../../deno.json" with { type: "json" };
import schema from "../../deploy/chart/values.schema.json" with { type: "json" };
import { validateManagedPrefix } from "../../src/nvme/nqn.ts";
import { driverContainers, least, objectsOf, render, type Values, whyRefused } from "./chart.ts";
import { oldValues } from "./old_values.ts";

const rds = least["rds"] as Record<string, unknown>;

/** What the schema says of a prefix, by the same regular expressions. */
function schemaTakes(prefix: string): boolean {
  const { pattern, maxLength, not } = schema.definitions.nqnPrefix;
  return new RegExp(pattern).test(prefix) && prefix.length <= maxLength && !new RegExp(not.pattern).test(prefix);
}

function programTakes(prefix: string): boolean {
  try {
    return validateManagedPrefix(prefix) === prefix;
  } catch {
    return false;
  }
}

Deno.test("the schema and the program take the same managed NQN prefixes", () => {
  const part = fc.oneof(
    fc.constantFrom("nqn.", ":", "nixos", "NIX", "nixos-", "pvc-", "mikrotik", " ", '"', "\\", "`", "'", "é", "\n"),
    fc.string({ maxLength: 3 }),
  );
  const made = fc.array(part, { maxLength: 8 }).map((parts) => parts.join(""));
  const likely = made.map((text) => `nqn.2000-02.com.mikrotik:${text}`);
  const long = fc.integer({ min: 140, max: 190 }).map((length) => `nqn.x:${"y".repeat(length)}`);
  fc.assert(fc.property(fc.oneof(made, likely, long), (prefix) => schemaTakes(prefix) === programTakes(prefix)), {
    numRuns: 20_000,
  });
});

const taken = ["nqn.2000-02.com.mikrotik:pvc-", "nqn.2014-08.org.example:cluster-1.", "nqn.x:abc", "nqn.x:nixo-y"];
Deno.test("Helm reads the schema's rule for prefixes as the program does", async () => {
  assertEquals(taken.filter((prefix) => !programTakes(prefix)), []);
  for (const prefix of [...taken, "", "nqn.x:ab", "nqn.x", "iqn.x:abc", "nqn.x:a b c", "nqn.x:nixos-", "nqn.x:NIX"]) {
    const why = await whyRefused({ rds: { ...rds, nqnPrefix: prefix } });
    assertEquals(why === undefined, programTakes(prefix), `${prefix}: ${why}`);
  }
});

/** Values that are wrong, each with a part of what is said. */
const wrong: readonly [string, Values, string][] = [
  ["no prefix", { rds: { managementIP: "192.0.2.1" } }, "/rds/nqnPrefix"],
  ["no server", { rds: { nqnPrefix: rds["nqnPrefix"] } }, "/rds/managementIP"],
  ["a server with a port", { rds: { ...rds, managementIP: "192.0.2.1/24" } }, "/rds/managementIP"],
  ["a key that there is not", { ...least, controler: {} }, "controler"],
  ["a nested key that there is not", { ...least, node: { kubeletDir: "/x" } }, "kubeletDir"],
  [
    "a kubelet's folder that Deno does not let the program at",
    { ...least, node: { kubeletPath: "/x" } },
    "kubeletPath",
  ],
  ["a setting of another mode", { ...least, node: { settings: { "volume-ids": "legacy" } } }, "volume-ids"],
  ["a parameter that there is not", { ...least, storageClasses: [{ name: "a", parameters: { x: "y" } }] }, "x"],
  ["a grace period that is too short", { ...least, node: { terminationGracePeriodSeconds: 30 } }, "minimum"],
  ["a relative base path", { rds: { ...rds, basePath: "pool" } }, "/rds/basePath"],
  ["an exporter that no kubelet can use", { ...least, simulator: { exporter: "loop" } }, "exporter"],
  ["the Go driver's image", { ...least, controller: { image: { repository: "x" } } }, "image.repository"],
  ["scheduled snapshots", { ...least, scheduledSnapshots: { enabled: true } }, "makes no snapshots"],
  [
    "a ServiceMonitor without Services",
    { ...least, monitoring: { enabled: false, serviceMonitor: { enabled: true } } },
    "set both",
  ],
];

for (const [name, values, part] of wrong) {
  Deno.test(`the chart refuses ${name}`, async () => {
    const why = await whyRefused(values);
    assertExists(why);
    assertStringIncludes(why, part);
  });
}

Deno.test("the chart takes what users of the Go driver's chart have set, and nothing that it did not mean", async () => {
  const objects = objectsOf(await render(oldValues));
  const classes = objects.filter(({ kind }) => kind === "StorageClass").map(({ metadata }) => metadata.name);
  assertEquals(classes, ["rds-nvme"]);
  const env = driverContainers(objects).find(({ component }) => component === "controller")?.container.env ?? [];
  assertEquals(env.find(({ name }) => name === "RDS_CSI_ORPHANS")?.value, "report");
  assertEquals(env.find(({ name }) => name === "RDS_CSI_LOG_LEVEL")?.value, "INFO");
});

Deno.test("Deno lets the node at every kubelet's folder that the schema takes", () => {
  const { read, write } = manifest.permissions.node;
  for (const folder of schema.definitions.kubeletPath.enum) {
    for (const list of [read, write]) assert(list.includes(folder), `${folder} is not in deno.json's permissions`);
  }
});
