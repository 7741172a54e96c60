import { labFolder } from "./folder.ts";
import type { Counts } from "./layer.ts";
import { inNamespace } from "./namespace.ts";

const signals = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

/**
 * Runs a script that runs tests in namespaces of its own; its argument is the file that gets the counts. When we are told
 * to end it ends, and everything that it has started and made.
 * @param name of its folder
 */
export async function countsApart(script: URL, name: string): Promise<Counts> {
  await using folder = await labFolder(name);
  const interrupted = new AbortController();
  const interrupt = () => interrupted.abort();
  for (const signal of signals) Deno.addSignalListener(signal, interrupt);
  try {
    const file = `${folder.path}/counts.json`;
    await inNamespace(script, { args: [file], folder: folder.path, signal: interrupted.signal });
    if (interrupted.signal.aborted) throw new Error("ended early; everything is removed");
    return JSON.parse(await Deno.readTextFile(file));
  } finally {
    for (const signal of signals) Deno.removeSignalListener(signal, interrupt);
  }
}
