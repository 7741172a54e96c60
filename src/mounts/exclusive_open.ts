import { type Commands, NotInstalled, Stuck } from "../runtime/command.ts";
import { messageOf } from "../runtime/errors.ts";

/**
 * Opens a device exclusively, as nobody can while it, or a partition of it, is mounted in any mount namespace, is part of
 * a RAID or a volume group, or is held exclusively by a program (kernel: block/bdev.c, bd_may_claim()). `mke2fs -n` makes
 * such an open and writes nothing. It is told a size, as it refuses by itself what is 16 TiB or larger, and a type, as
 * others want features that such a size has no room for; without a terminal it asks nothing. Whoever has opened the
 * device plainly is not seen.
 * @param options.deadline milliseconds
 * @returns why the device is not known to be idle; undefined: it is idle
 * @throws {Stuck} when the program hangs in the kernel
 */
export async function whyNotIdle(
  path: string,
  options: { commands: Commands; deadline: number; signal?: AbortSignal | undefined },
): Promise<string | undefined> {
  const args = ["-n", "-q", "-t", "ext2", "-b", "4096", path, "256"]; // 256 blocks: one MiB.
  try {
    const { code, stdout, stderr } = await options.commands.run("mke2fs", args, options);
    if (code === 0) return undefined;
    const said = (stderr + stdout).trim().replaceAll(/\s*\n\s*/g, "; ").replace(
      /; will not make a filesystem here!/,
      "",
    );
    return said || `an exclusive open of ${path} failed`;
  } catch (error) {
    if (options.signal?.aborted || error instanceof Stuck) throw error;
    const remedy = error instanceof NotInstalled ? "" : ", look at the NVMe session and at dmesg";
    return `it could not be looked whether ${path} is held exclusively (${messageOf(error)})${remedy}`;
  }
}
