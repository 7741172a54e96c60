import { type Mount, mountAt, resolved } from "../mounts/mountinfo.ts";
import { FailedPrecondition } from "../runtime/errors.ts";
import { log } from "../runtime/log.ts";
import type { StagingParts } from "./parts.ts";
import type { Cancellable } from "./volume.ts";

interface Trial {
  device: { path: string; majorMinor: string };
  /** Where it will be mounted, and nothing is mounted now. */
  stagingPath: string;
  mount: { fsType: string; options: readonly string[] };
}

/** Writes nothing, the log included (xfs(5)). */
const untouched = ["ro", "norecovery"];

/**
 * Mounts an xfs for a moment so that nothing is written to it: a mount that fails for what is broken has written to the log
 * before. What the log would mend is no error then. Nothing for other filesystems, which are checked otherwise.
 * @throws {FailedPrecondition} when the kernel refuses the filesystem
 */
export async function tryMount(parts: StagingParts, trial: Trial, options: Cancellable = {}): Promise<void> {
  const { device, stagingPath, mount: { fsType, options: wanted } } = trial;
  if (fsType !== "xfs" || wanted.includes("norecovery")) return;
  const others = wanted.filter((option) => !["ro", "rw"].includes(option));
  try {
    await parts.mounts.mount(device, stagingPath, { fsType, mountOptions: [...others, ...untouched], ...options });
  } catch (error) {
    if (!(error instanceof FailedPrecondition)) throw error;
    throw new FailedPrecondition(
      `the xfs on ${device.path} cannot be mounted, and nothing was written to it: ${error.message}. If another ` +
        "node's mkfs was cut off, start a pod there, which finishes it. If it is damaged: take " +
        `a copy of the volume, look with 'xfs_repair -n ${device.path}', and repair it with 'xfs_repair' while no pod uses it`,
      { cause: error },
    );
  }
  await endTrial(parts, trial, options);
}

/** Takes away a trial that was cut off: it would look like the volume itself, read-only. */
export async function endTrial(
  parts: StagingParts,
  { device, stagingPath, mount }: Trial,
  options: Cancellable = {},
): Promise<void> {
  if (mount.fsType !== "xfs" || mount.options.includes("norecovery")) return;
  const path = await resolved(stagingPath);
  const isTrial = ({ majorMinor, superOptions }: Mount) =>
    majorMinor === device.majorMinor && superOptions.includes("norecovery");
  const there = path && mountAt(await parts.mounts.all(options), path);
  if (!there || !isTrial(there)) return;
  log.debug("taking a trial mount away", { stagingPath });
  await parts.mounts.unmount(stagingPath, isTrial, options);
}
