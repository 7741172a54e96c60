import { assert, assertEquals } from "@std/assert";
import manifest from "../../deno.json" with { type: "json" };
import schema from "../../deploy/chart/values.schema.json" with { type: "json" };
import { type Mode, settings } from "../../src/config.ts";
import { readConfig } from "../../src/config_read.ts";
import { parameters } from "../../src/volumes/parameters.ts";
import { driverContainers, environment, least, objectsOf, render, type Values } from "./chart.ts";

const all = Object.values(settings);

/** Values that switch on whatever the chart has settings for. */
const everything: Values = {
  rds: {
    ...least["rds"] as object,
    insecureSkipVerify: true,
    allowedBasePaths: ["/storage-pool/machines", "/storage-pool/other"],
  },
  controller: { vmiSerialization: { enabled: true }, settings: { "volume-ids": "legacy", "capacity-ratio": 1.5 } },
  node: { loadModules: true, settings: { "max-volumes-per-node": 20_000_000 / 1e6 } },
  simulator: { enabled: true, exporter: "nvmet", settings: { latency: "add=400,print=50" } },
};

async function containers(
  values: Values,
): Promise<(ReturnType<typeof driverContainers>[number] & { env: Record<string, string> })[]> {
  const objects = objectsOf(await render(values));
  return driverContainers(objects).map((each) => ({ ...each, env: environment(each.container, objects) }));
}

for (const [name, values] of Object.entries({ "the least values": least, "everything on": everything })) {
  Deno.test(`readConfig() takes what the chart passes to each mode: ${name}`, async () => {
    for (const { component, container, env } of await containers(values)) {
      const request = readConfig(container.args ?? [], env);
      assert(request.kind === "run", Deno.inspect(request));
      assertEquals([request.mode, request.warnings], [component as Mode, []]);
      const known = new Set<string>(all.map((setting) => setting.env));
      assertEquals(Object.keys(env).filter((variable) => !known.has(variable)), []);
    }
  });
}

Deno.test("readConfig() takes what the pods have for the commands that are run in them", async () => {
  for (const { component, env } of await containers(everything)) {
    const commands = { controller: ["diagnose controller"], node: ["diagnose", "prestop"], simulator: [] };
    for (const command of commands[component as keyof typeof commands]) {
      const request = readConfig(command.split(" "), env);
      assert(request.kind === "command", Deno.inspect(request));
      assertEquals(request.problems, []);
    }
  }
});

/** Settings that are nobody's to choose in the chart, and why. */
const notValues: Readonly<Record<string, string>> = {
  "mode": "an argument",
  "socket-group": "all containers of the controller are one user, those of the node are root",
  "standalone": "there is a Kubernetes",
  "standalone-nodes": "there is a Kubernetes",
  "kubeconfig": "the pod's service account is used",
  "namespace": "the pod's",
  "rds-key-file": "the Secret is mounted where it is looked for",
  "rds-host-key": "the Secret is mounted where it is looked for",
  "proc-root": "mounted where it is looked for",
  "sysfs-root": "mounted where it is looked for",
  "dev-root": "mounted where it is looked for",
  "nvme-etc-root": "mounted where it is looked for",
  "host-nqn": "each node has another",
  "host-id": "each node has another",
  "exports-dir": "for the exporter loop, which no kubelet can use",
  "nvmet-root": "mounted where it is looked for",
  "control-socket": "for tests",
};

for (const mode of ["controller", "node", "simulator"] as const) {
  Deno.test(`every setting of the ${mode} is a value of the chart, or has a reason not to be`, async () => {
    const ofMode = all.filter(({ modes }) => modes.length === 0 || (modes as readonly string[]).includes(mode));
    const env = (await containers(everything)).find(({ component }) => component === mode)?.env ?? {};
    const further = Object.keys(schema.properties[mode].properties.settings.properties);
    const passed = ofMode.filter((setting) => setting.env in env).map(({ flag }) => flag as string);
    const missing = ofMode.map(({ flag }) => flag as string)
      .filter((flag) => ![...passed, ...further].includes(flag) && !(flag in notValues));
    assertEquals(missing.filter((flag) => mode !== "simulator" || !flag.startsWith("log-")), []);
    const flags = ofMode.map(({ flag }) => flag as string);
    assertEquals(further.filter((flag) => !flags.includes(flag)), []);
  });
}

Deno.test("every parameter of a StorageClass has a key or may stand among the parameters", () => {
  const { properties } = schema.definitions.storageClass;
  const keys = [...Object.keys(properties), ...Object.keys(properties.parameters.properties)];
  const ignored = ["sshPort", "nqnPrefix", "csi.storage.k8s.io/fstype"];
  const missing = parameters.map(({ name }) => name).filter((name) => !keys.includes(name) && !ignored.includes(name));
  assertEquals(missing, []);
  const names = parameters.map(({ name }) => name);
  assertEquals(Object.keys(properties.parameters.properties).filter((name) => !names.includes(name)), []);
});

/** Folders that programs use which the driver runs, or nobody: Deno need not let the driver itself at them. */
const notTheDrivers = ["/tmp", "/run", "/dev", "/lib/modules"];

Deno.test("Deno lets each mode at what is mounted for it", async () => {
  for (const { component, container } of await containers(everything)) {
    const { read, write } = manifest.permissions[component as Mode] as { read: string[]; write: string[] };
    const isIn = (folders: string[], path: string) => folders.some((folder) => `${path}/`.startsWith(`${folder}/`));
    for (const { mountPath, readOnly } of container.volumeMounts ?? []) {
      if (notTheDrivers.includes(mountPath)) continue;
      assert(isIn(read, mountPath), `${component} may not read ${mountPath}`);
      if (!readOnly) assert(isIn(write, mountPath), `${component} may not write ${mountPath}`);
    }
  }
});
