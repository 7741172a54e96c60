import { Commands } from "../../src/runtime/command.ts";
import { fromFileUrl } from "./project.ts";

/** The arguments of `unshare` for a mount and a process namespace of one's own: every process and mount in it goes when its first process ends. */
export const unshare: readonly string[] = [
  "--mount",
  "--pid",
  "--fork",
  "--kill-child",
  "--mount-proc",
  "--propagation=private",
];

/** Milliseconds that what runs inside has to end by itself. */
const GRACE = 2000;

/** Why no namespaces can be made here; `undefined` when they can. */
export async function whyNoNamespace(): Promise<string | undefined> {
  if (Deno.build.os !== "linux" || Deno.uid() !== 0) return "mounting and loop devices need Linux and root";
  const { code, stderr } = await new Commands().run("unshare", [...unshare, "true"], { deadline: 10_000 });
  return code === 0
    ? undefined
    : `no namespaces can be made (${stderr.trim()}): run as root, in a container with --privileged`;
}

/** What a script in a namespace gets. */
export interface InsideOptions {
  args?: readonly string[];
  env?: Readonly<Record<string, string>>;
  /** Where its temporary files go. */
  folder: string;
  /** Ends it, and with it everything that it has started. */
  signal?: AbortSignal;
}

/**
 * Runs a Deno script, with everything granted, as the first process of namespaces of its own, with our standard output.
 * @returns its exit code
 */
export async function inNamespace(script: URL, options: InsideOptions): Promise<number> {
  const child = new Deno.Command("unshare", {
    args: [...unshare, Deno.execPath(), "run", "--quiet", "-A", fromFileUrl(script), ...options.args ?? []],
    env: { TMPDIR: options.folder, ...options.env },
    stdin: "null",
  }).spawn();
  // unshare heeds no TERM, and whoever is inside hears of a Ctrl-C by itself: it may end in good order first.
  let timer: ReturnType<typeof setTimeout> | undefined;
  const end = () => timer = setTimeout(() => child.kill("SIGKILL"), GRACE);
  options.signal?.addEventListener("abort", end, { once: true });
  if (options.signal?.aborted) end();
  try {
    return (await child.status).code;
  } finally {
    clearTimeout(timer);
    options.signal?.removeEventListener("abort", end);
  }
}
