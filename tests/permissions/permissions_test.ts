import { assertEquals } from "@std/assert";
import manifest from "../../deno.json" with { type: "json" };

const root = new URL("../../", import.meta.url);

/** What the probe could do in a mode with these permissions. */
async function probe(mode: string, permissions: string[], drop = ""): Promise<Record<string, string>> {
  const folder = await Deno.makeTempDir();
  await Deno.writeTextFile(`${folder}/own`, "mine");
  const name = permissions[0]?.match(/^-P=(.*)/)?.[1] as keyof typeof manifest.permissions | undefined;
  // A flag takes the place of the set's own list, so that goes in too.
  const [read, write] = (["read", "write"] as const).map((kind) =>
    [...name ? manifest.permissions[name][kind] : [], folder].join()
  );
  const own = permissions.includes("-A") ? [] : [`--allow-read=${read}`, `--allow-write=${write}`];
  const { stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "--quiet", "--no-prompt", ...permissions, ...own, "tests/permissions/probe.ts", mode, folder, drop],
    cwd: root,
    env: { HOME: "/somewhere" },
  }).output();
  await Deno.remove(folder, { recursive: true });
  await Deno.remove("/var/tmp/rds-csi-permission-probe").catch(() => {});
  try {
    return JSON.parse(new TextDecoder().decode(stdout));
  } catch {
    throw new Error(new TextDecoder().decode(stderr));
  }
}

/** What every mode may do, and nothing else. */
const least = {
  "read own": "done",
  "write own": "done",
  "read /etc/passwd": "refused",
  "write /var/tmp": "refused",
  "run true": "refused",
  "run mount": "refused",
  "run dmesg": "refused",
  "read /etc/rds-csi": "refused",
  "write /var/lib/kubelet": "refused",
  "hostname": "refused",
  "read HOME": "refused",
  "read CSI_MANAGED_NQN_PREFIX": "done",
  "read /proc": "refused",
  "ffi": "refused",
};

/** With a set of deno.json, what of the environment is not named is not there: libraries look at all of it. */
const set = { ...least, "read HOME": "hidden" };

const ofMode = {
  controller: { ...set, "read /etc/rds-csi": "done", "hostname": "done" },
  node: { ...set, "run mount": "done", "write /var/lib/kubelet": "done" },
  simulator: { ...set, "run dmesg": "done" },
};

Deno.test("the controller's permission set lets it run nothing and touch no file but its own", async () => {
  assertEquals(await probe("controller", ["-P=controller"]), ofMode.controller);
});

Deno.test("the simulator's permission set lets it run what its exports need and touch no file but its own", async () => {
  assertEquals(await probe("simulator", ["-P=simulator"]), ofMode.simulator);
});

Deno.test("the node's permission set lets it run its tools, and nothing else", async () => {
  assertEquals(await probe("node", ["-P=node"]), ofMode.node);
});

Deno.test("of the permissions that the program ships with, each mode lets go of what is not its own", async () => {
  for (const mode of ["controller", "node"] as const) {
    assertEquals(await probe(mode, ["-P=program"], "drop"), ofMode[mode], mode);
  }
  // It runs programs for one exporter alone, which says so.
  assertEquals(await probe("simulator", ["-P=program"], "drop"), { ...ofMode.simulator, "run dmesg": "refused" });
});

/** The probe, compiled as the program is; only a release has it. */
const compiled = Deno.env.get("RDS_CSI_PROBE");

if (compiled) {
  Deno.test("compiled, each mode lets go of what is not its own", async () => {
    for (const mode of ["controller", "node"] as const) {
      const { stdout } = await new Deno.Command(compiled, { args: [mode, "/csi", "drop"], env: { HOME: "/x" } })
        .output();
      const { "read own": _, "write own": __, ...outcome } = JSON.parse(new TextDecoder().decode(stdout));
      const { "read own": ___, "write own": ____, ...wanted } = ofMode[mode];
      assertEquals(outcome, wanted, mode);
    }
  });
}

Deno.test("the permissions that the program ships with are those of its modes, and no others", () => {
  const { program, ...modes } = manifest.permissions;
  const lists = (of: object, kind: string): string[] => (of as Record<string, string[]>)[kind] ?? [];
  for (const kind of ["read", "write", "run", "sys"]) {
    const wanted = new Set(Object.values(modes).flatMap((mode) => lists(mode, kind)));
    assertEquals(new Set(lists(program, kind)), wanted, kind);
  }
  assertEquals(program.env.allow, [...new Set(Object.values(modes).flatMap(({ env }) => env.allow))]);
  assertEquals([program.env.ignore, program.net], [true, true]);
});

Deno.test("dropPermissions() takes the tools away from controller and simulator of a program that was given them", async () => {
  const sum = ["--allow-run=mount", "--allow-env=CSI_MANAGED_NQN_PREFIX"];
  assertEquals(await probe("controller", sum), { ...least, "run mount": "done" });
  for (const mode of ["controller", "simulator"]) assertEquals(await probe(mode, sum, "drop"), least);
  assertEquals(await probe("node", sum, "drop"), { ...least, "run mount": "done" });
});

Deno.test("dropPermissions() leaves the host's trees to a node with every permission, and no programs to a controller", async () => {
  const node = await probe("node", ["-A"], "drop");
  assertEquals([node["read /proc"], node["run true"]], ["done", "done"]);
  const controller = await probe("controller", ["-A"], "drop");
  assertEquals([controller["run true"], controller["run mount"]], ["refused", "refused"]);
});
