import manifest from "../deno.json" with { type: "json" };
import type { Mode } from "./config.ts";

/**
 * Kinds of permission that a mode has no use for. A program that was given more than its own mode needs (the one that ships
 * has the sum of all modes) lets go of them before it does anything.
 */
const needless: Readonly<Record<Mode, readonly Deno.PermissionName[]>> = {
  controller: ["run", "ffi"],
  node: ["ffi"],
  simulator: ["run", "ffi"],
};

/** Paths, programs and kinds of the sets in deno.json. */
type Lists = Partial<Record<"read" | "write" | "run" | "sys", readonly string[]>>;
const sets: Readonly<Record<Mode | "program", Lists>> = manifest.permissions;

/**
 * Gives up what the mode does not need, but for what is to be kept: kinds as a whole, and of the lists in deno.json what
 * stands there for other modes. A broader grant than that cannot be narrowed: Deno takes back what it gave, word by word.
 * With every permission granted (`-A`) the node keeps all, because letting go of one would take away the host's /proc, /sys
 * and /dev.
 */
export function dropPermissions(mode: Mode, keep: readonly Deno.PermissionName[] = []): void {
  if (mode === "node" && everythingGranted()) return;
  for (const name of needless[mode]) {
    if (!keep.includes(name)) Deno.permissions.revokeSync({ name } as Deno.PermissionDescriptor);
  }
  for (const descriptor of ofOthers(mode)) Deno.permissions.revokeSync(descriptor);
}

/** What the program's set has and the mode's has not. */
function ofOthers(mode: Mode): Deno.PermissionDescriptor[] {
  const { read = [], write = [], run = [], sys = [] } = sets.program;
  const own = sets[mode];
  // What lies in a folder of the mode's own is its own, too.
  const isOwn = (path: string, mine: readonly string[] = []) =>
    mine.some((folder) => path === folder || path.startsWith(`${folder}/`));
  return [
    ...read.filter((path) => !isOwn(path, own.read)).map((path) => ({ name: "read" as const, path })),
    ...write.filter((path) => !isOwn(path, own.write)).map((path) => ({ name: "write" as const, path })),
    ...run.filter((command) => !own.run?.includes(command)).map((command) => ({ name: "run" as const, command })),
    ...sys.filter((kind) => !own.sys?.includes(kind))
      .map((kind) => ({ name: "sys", kind }) as Deno.SysPermissionDescriptor),
  ];
}

/** Whether the process was started with every permission. */
export function everythingGranted(): boolean {
  const names = ["read", "write", "net", "env", "run", "sys", "ffi"] as const;
  return names.every((name) => Deno.permissions.querySync({ name }).state === "granted");
}
