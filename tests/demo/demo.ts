/**
 * A volume's whole life on the embedded simulator, in three processes and a folder of its own.
 * @module
 */
import { labFolder } from "../lab/folder.ts";
import { print } from "../lab/layer.ts";
import { inNamespace, whyNoNamespace } from "../lab/namespace.ts";
import { fromFileUrl } from "../lab/project.ts";
import { whyNoStandIn } from "../nvme/stand_in.ts";

const usage = "deno task demo [--keep]\n  --keep  leaves it running and says how to reach it\n";

async function main(args: readonly string[]): Promise<number> {
  if (args.some((arg) => arg !== "--keep")) {
    print(usage);
    return args.includes("--help") ? 0 : 2;
  }
  const interrupted = new AbortController();
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    Deno.addSignalListener(signal, () => interrupted.abort());
  }
  await using folder = await labFolder("demo");
  const whyNoNode = await whyNoNamespace() ?? await whyNoStandIn() ?? "";
  const script = new URL("inside.ts", import.meta.url);
  const given = [folder.path, args.includes("--keep") ? "keep" : "end", whyNoNode];
  const code = whyNoNode === ""
    ? await inNamespace(script, { args: given, folder: folder.path, signal: interrupted.signal })
    : await alone(script, given, interrupted.signal);
  if (interrupted.signal.aborted) print("\nEnded early; everything is removed.\n");
  else if (code !== 0) print("The demo failed; everything is removed.\n");
  return interrupted.signal.aborted && !args.includes("--keep") ? 130 : code;
}

/** Without namespaces: nothing is mounted and no loop device is used, so there is nothing to keep apart. */
async function alone(script: URL, args: string[], signal: AbortSignal): Promise<number> {
  const child = new Deno.Command(Deno.execPath(), {
    args: ["run", "--quiet", "-A", fromFileUrl(script), ...args],
    stdin: "null",
    signal,
  }).spawn();
  return (await child.status).code;
}

Deno.exitCode = await main(Deno.args);
