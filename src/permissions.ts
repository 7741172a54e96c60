import type { Mode } from "./config.ts";

/**
 * Kinds of permission that a mode has no use for. A program that was given more than its own mode needs (the compiled one
 * carries the sum of all modes) lets go of them before it does anything.
 */
const needless: Readonly<Record<Mode, readonly Deno.PermissionName[]>> = {
  controller: ["run", "ffi"],
  node: ["ffi"],
  simulator: ["run", "ffi"],
};

/**
 * Gives up what the mode does not need, but for what is to be kept. A kind goes as a whole or not at all: a broad grant cannot be narrowed. With every
 * permission granted (`-A`) the node keeps all, because letting go of one would take away the host's /proc, /sys and /dev.
 */
export function dropPermissions(mode: Mode, keep: readonly Deno.PermissionName[] = []): void {
  for (const name of needless[mode]) {
    if (keep.includes(name)) continue;
    if (mode === "node" && everythingGranted()) continue;
    Deno.permissions.revokeSync({ name } as Deno.PermissionDescriptor);
  }
}

/** Whether the process was started with every permission. */
export function everythingGranted(): boolean {
  const names = ["read", "write", "net", "env", "run", "sys", "ffi"] as const;
  return names.every((name) => Deno.permissions.querySync({ name }).state === "granted");
}
