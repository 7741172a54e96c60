import { Commands, type Output, type RunOptions } from "../../src/runtime/command.ts";

const commands = new Commands();

/** Runs a program of a test and gives its output. Fails with what it said when it fails. */
export async function run(program: string, ...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await commands.run(program, args, { deadline: 60_000, keep: 2 ** 24 });
  if (code !== 0) throw new Error(`'${program} ${args.join(" ")}' ended with ${code}: ${stderr}${stdout}`);
  return stdout;
}

/** Why this machine cannot stand in for NVMe; `undefined` when it can. */
export async function whyNoStandIn(): Promise<string | undefined> {
  if (Deno.build.os !== "linux" || Deno.uid() !== 0) return "mounting and loop devices need Linux and root";
  for (const program of ["losetup", "mount", "mknod", "flock", "mkfs.ext4", "mkfs.xfs", "blkid", "wipefs", "cmp"]) {
    try {
      await commands.run(program, ["--version"], { deadline: 10_000 });
    } catch {
      return `the program '${program}' is missing: apt-get install util-linux e2fsprogs xfsprogs diffutils`;
    }
  }
  const { code, stderr } = await commands.run("losetup", ["--find"], { deadline: 10_000 });
  return code === 0 ? undefined : `there are no loop devices: ${stderr.trim()}`;
}

/** Runs programs in an environment of its own and remembers which. */
export class RecordingCommands extends Commands {
  readonly #env: Record<string, string>;
  /** Each program with its arguments, in the order of their starts. */
  readonly started: string[] = [];
  /** Called before a program starts; what it returns, if anything, is the program's answer instead. */
  instead: (program: string, args: readonly string[]) => Output | Promise<Output> | undefined = () => undefined;

  constructor(env: Record<string, string> = {}) {
    super();
    this.#env = env;
  }

  override async run(program: string, args: readonly string[], options: RunOptions): Promise<Output> {
    this.started.push(`${program} ${args.join(" ")}`);
    return await this.instead(program, args) ?? super.run(program, args, { ...options, env: this.#env });
  }
}

/** What stands in for the kernel's NVMe: folders, and the environment that the driver is started with. */
export interface StandIn extends AsyncDisposable {
  /** A tmpfs of its own that devices work in (`/tmp` is `nodev` on some machines), for whatever a test mounts. */
  folder: string;
  /** For `--proc-root`, `--sysfs-root`, `--dev-root`. `proc` is the machine's own, bind-mounted. */
  roots: { proc: string; sysfs: string; dev: string };
  /** The folder that the simulator's exporter `loop` writes to. */
  exports: string;
  /** `PATH` with the stand-in of nvme-cli in front, and its variables. */
  env: Record<string, string>;
}

/**
 * Prepares a folder with the stand-in of nvme-cli. Letting it go ends its sessions and unmounts all that is mounted under
 * the folder.
 * @param options.exports an existing exports folder to use instead of one of its own
 */
export async function standIn(options: { exports?: string } = {}): Promise<StandIn> {
  const folder = await Deno.makeTempDir({ prefix: "rds-csi-" });
  await run("mount", "-t", "tmpfs", "-o", "mode=0700,dev,exec", "rds-csi", folder);
  const roots = { proc: `${folder}/proc`, sysfs: `${folder}/sys`, dev: `${folder}/dev` };
  const exports = options.exports ?? `${folder}/exports`;
  const loaded = `${roots.sysfs}/module/nvme_tcp`;
  for (const path of [...Object.values(roots), `${roots.sysfs}/class`, loaded, `${folder}/bin`, `${folder}/exports`]) {
    await Deno.mkdir(path, { recursive: true });
  }
  await run("mount", "--bind", "/proc", roots.proc);
  await Deno.copyFile(new URL("./nvme", import.meta.url), `${folder}/bin/nvme`);
  await Deno.chmod(`${folder}/bin/nvme`, 0o755);
  return {
    folder,
    roots,
    exports,
    env: {
      PATH: `${folder}/bin:${Deno.env.get("PATH") ?? ""}:/usr/sbin:/sbin`,
      NVME_STAND_IN_EXPORTS: exports,
      NVME_STAND_IN_SYSFS: roots.sysfs,
      NVME_STAND_IN_DEV: roots.dev,
    },
    [Symbol.asyncDispose]: () => letGo(folder),
  };
}

async function letGo(folder: string): Promise<void> {
  const loops = await notedLoops(`${folder}/sys/.loops`);
  const table = await run("findmnt", "--raw", "--noheadings", "--output", "TARGET");
  const targets = table.split("\n").map((line) =>
    line.replaceAll(/\\x([0-9a-f]{2})/g, (_, hex) => String.fromCharCode(parseInt(hex, 16)))
  );
  for (const target of targets.filter((each) => each.startsWith(`${folder}/`)).reverse()) {
    await run("umount", target).catch(() => run("umount", "--lazy", target));
  }
  for (const loop of loops) await run("losetup", "--detach", loop);
  await run("umount", folder);
  await Deno.remove(folder);
}

async function notedLoops(notes: string): Promise<string[]> {
  const loops: string[] = [];
  try {
    for await (const { name } of Deno.readDir(notes)) loops.push((await Deno.readTextFile(`${notes}/${name}`)).trim());
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
  return loops;
}
