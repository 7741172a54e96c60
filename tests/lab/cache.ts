import { pause } from "../../src/runtime/deadline.ts";
import { print } from "./layer.ts";

/** A program that is made once. */
export interface Cached {
  name: string;
  version: string;
}

/**
 * The path of a program, which is made once into `${XDG_CACHE_HOME:-~/.cache}/rds-csi/<name>-<version>`. The folder appears
 * whole; of two that make it at once, one waits.
 * @param make puts the program into the folder `bin` of the folder that it is given
 */
export async function cached(wanted: Cached, make: (folder: string) => Promise<void>): Promise<string> {
  const cache = `${Deno.env.get("XDG_CACHE_HOME") || `${Deno.env.get("HOME")}/.cache`}/rds-csi`;
  const folder = `${cache}/${wanted.name}-${wanted.version}`;
  const program = `${folder}/${wanted.name}`;
  if (await exists(program)) return program;
  await Deno.mkdir(cache, { recursive: true });
  // The lock ends with whoever holds it.
  using lock = await Deno.open(`${cache}/.${wanted.name}-${wanted.version}.lock`, { create: true, write: true });
  await take(lock, wanted);
  if (await exists(program)) return program;
  const building = `${cache}/.${wanted.name}-${wanted.version}.building`;
  await removeIfThere(building);
  await Deno.mkdir(`${building}/bin`, { recursive: true });
  await make(building);
  await Deno.rename(`${building}/bin`, folder);
  await Deno.remove(building, { recursive: true });
  return program;
}

/** Milliseconds that somebody else may take to make the same. */
const PATIENCE = 1_800_000;

async function take(lock: Deno.FsFile, { name, version }: Cached): Promise<void> {
  const end = performance.now() + PATIENCE;
  for (let said = false; !await lock.tryLock(true); said = true) {
    if (!said) print(`Waiting for another build of ${name} ${version}\n`);
    if (performance.now() > end) throw new Error(`${name} is being built by somebody else for too long`);
    await pause(500);
  }
}

async function removeIfThere(folder: string): Promise<void> {
  if (await exists(folder)) await Deno.remove(folder, { recursive: true });
}

async function exists(path: string): Promise<boolean> {
  try {
    await Deno.stat(path);
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}
