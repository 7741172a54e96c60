/**
 * Opens the machines for a person, until Ctrl-C: `deno task lab [number of nodes]`, or a whole Kubernetes with pods on them:
 * `deno task lab cluster`. Beside it, `deno task lab exec node1 ls /`
 * runs a program in a machine.
 * @module
 */
import { whyNoContainers } from "../cluster/containers.ts";
import { labFolder } from "../folder.ts";
import { whyNoGo } from "../go_tools.ts";
import { whyNoImage } from "../image.ts";
import { print } from "../layer.ts";
import { inNamespace, whyNoNamespace } from "../namespace.ts";
import { Guest } from "./guest.ts";
import { guestKernel, whyNoMachines } from "./kernel.ts";

/** Says where the agents of the machines that are open listen. */
const NOTE = "/tmp/rds-csi-lab.json";

async function open(what: string): Promise<number> {
  const missing = await whyNoNamespace() ?? await whyNoMachines() ??
    (what === "cluster" ? await whyNoContainers() ?? await whyNoImage() ?? await whyNoGo() : undefined);
  if (missing) {
    print(`${missing}\n`);
    return 1;
  }
  await guestKernel();
  await using folder = await labFolder("lab");
  const interrupted = new AbortController();
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    Deno.addSignalListener(signal, () => interrupted.abort());
  }
  try {
    const script = new URL(what === "cluster" ? "../cluster/lab_inside.ts" : "lab_inside.ts", import.meta.url);
    const code = await inNamespace(script, {
      args: [folder.path, what, NOTE],
      folder: folder.path,
      signal: interrupted.signal,
    });
    return interrupted.signal.aborted ? 0 : code;
  } finally {
    await Deno.remove(NOTE).catch(() => {});
  }
}

async function exec([name = "", program = "sh", ...args]: readonly string[]): Promise<number> {
  const ports: Record<string, number> = JSON.parse(await Deno.readTextFile(NOTE));
  const port = ports[name];
  if (!port) throw new Error(`there is no machine '${name}': there are ${Object.keys(ports).join(", ")}`);
  const { code, stdout, stderr } = await new Guest(name, port).run(program, args, { deadline: 3_600_000 });
  print(stdout);
  Deno.stderr.writeSync(new TextEncoder().encode(stderr));
  return code;
}

const [first = "2", ...rest] = Deno.args.filter((arg) => arg !== "--");
Deno.exit(first === "exec" ? await exec(rest) : await open(first));
