import type { Commands } from "../runtime/command.ts";
import { NotInstalled } from "../runtime/command.ts";

/** A program that the node runs, and with what it only says its version. */
export interface Tool {
  program: string;
  args: readonly string[];
  /** Only where this setting asks for it. */
  only?: "loadModules";
}

/** All programs that the node runs. */
export const tools: readonly Tool[] = [
  { program: "nvme", args: ["version"] },
  { program: "mount", args: ["--version"] },
  { program: "umount", args: ["--version"] },
  { program: "mknod", args: ["--version"] },
  { program: "blkid", args: ["--version"] },
  { program: "wipefs", args: ["--version"] },
  { program: "cmp", args: ["--version"] },
  { program: "od", args: ["--version"] },
  { program: "mke2fs", args: ["-V"] },
  { program: "mkfs.ext4", args: ["-V"] },
  { program: "mkfs.ext3", args: ["-V"] },
  { program: "mkfs.xfs", args: ["-V"] },
  { program: "e2fsck", args: ["-V"] },
  // It has no option for that: without a device it says its version and how it is used.
  { program: "resize2fs", args: [] },
  { program: "xfs_growfs", args: ["-V"] },
  { program: "modprobe", args: ["--version"], only: "loadModules" },
];

/** What starting a program showed. */
export interface Started {
  program: string;
  /** What it says of its version; undefined when it says nothing. */
  version: string | undefined;
  /** Why it cannot be used; undefined when it can. */
  why: string | undefined;
}

/** Milliseconds for a program to say its version. */
const limit = 5000;

/** Starts a program so that it does nothing but speak. @throws when that was cut off */
export async function start(commands: Commands, { program, args }: Tool, signal: AbortSignal): Promise<Started> {
  try {
    const { code, stdout, stderr } = await commands.run(program, args, { deadline: limit, signal });
    const said = `${stdout}\n${stderr}`;
    // Of a shell, of the dynamic linker, of a kernel that cannot run it.
    if (code >= 126) return { program, version: undefined, why: `it ends with ${code}: ${said.trim()}` };
    return { program, version: /\d+\.\d+(?:\.\d+)*/.exec(said)?.[0], why: undefined };
  } catch (error) {
    if (error instanceof NotInstalled) return { program, version: undefined, why: "it is not there" };
    throw error;
  }
}
