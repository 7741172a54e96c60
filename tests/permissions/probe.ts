/**
 * Tries what a mode may and may not do, and prints for each whether it was refused. Arguments: the mode, the folder that the
 * process was given, and `drop` when the mode's own letting go is to be done first.
 * @module
 */
import type { Mode } from "../../src/config.ts";
import { dropPermissions } from "../../src/permissions.ts";

const [mode = "", folder = "", drop] = Deno.args;

/** It is there, and the process is told that it is not. */
const HIDDEN = "hidden";

const attempts: Record<string, () => unknown> = {
  "read own": () => Deno.readTextFileSync(`${folder}/own`),
  "write own": () => Deno.writeTextFileSync(`${folder}/own`, "x"),
  "read /etc/passwd": () => Deno.readTextFileSync("/etc/passwd"),
  "write /var/tmp": () => Deno.writeTextFileSync("/var/tmp/rds-csi-permission-probe", "x"),
  "run true": () => new Deno.Command("true").outputSync(),
  "run mount": () => new Deno.Command("mount", { args: ["--version"], stdout: "null" }).outputSync(),
  "run dmesg": () => new Deno.Command("dmesg", { args: ["--version"], stdout: "null" }).outputSync(),
  "read /etc/rds-csi": () => there(() => Deno.readDirSync("/etc/rds-csi").next()),
  "write /var/lib/kubelet": () => there(() => Deno.removeSync("/var/lib/kubelet/no-such-file")),
  "hostname": () => Deno.hostname(),
  "read HOME": () => Deno.env.get("HOME") ?? HIDDEN,
  "read CSI_MANAGED_NQN_PREFIX": () => Deno.env.get("CSI_MANAGED_NQN_PREFIX"),
  "read /proc": () => Deno.readTextFileSync("/proc/1/mountinfo"),
  "ffi": () => Deno.dlopen("libc.so.6", {}),
};

/** Does what may well find nothing: only that it may is asked for. */
function there(attempt: () => unknown): void {
  try {
    attempt();
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
}

if (drop) dropPermissions(mode as Mode);
const outcome: Record<string, string> = {};
for (const [what, attempt] of Object.entries(attempts)) {
  try {
    outcome[what] = attempt() === HIDDEN ? HIDDEN : "done";
  } catch (error) {
    outcome[what] = error instanceof Deno.errors.NotCapable ? "refused" : `failed: ${error}`;
  }
}
Deno.stdout.writeSync(new TextEncoder().encode(JSON.stringify(outcome)));
