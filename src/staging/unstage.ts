import { InUse, Unreachable } from "../runtime/errors.ts";
import type { StagingParts } from "./parts.ts";
import { tracesOf, usesOf } from "./uses.ts";
import { type Cancellable, requireVolumeId } from "./volume.ts";

/**
 * Reverses stage (CSI 1.13 §NodeUnstageVolume): unmounts the staging path and ends the volume's sessions, proven. What is
 * gone already is fine, also all of it.
 * @throws {InUse} while anybody is seen to use the volume: nothing was changed
 * @throws {FailedPrecondition} when its record cannot be used, so that its users cannot be seen
 * @throws {Unreachable} when its session is not live, so that unmounting would hang, or does not end
 */
export async function unstage(
  parts: StagingParts,
  input: { volumeId: string; stagingPath: string },
  options: Cancellable = {},
): Promise<void> {
  requireVolumeId(input.volumeId);
  const traces = await tracesOf(parts, input.volumeId, options);
  const uses = await usesOf(parts, traces, { stagingPath: input.stagingPath, signal: options.signal });
  if (uses.length > 0) {
    throw new InUse(
      `volume ${input.volumeId} is in use on this node: ${
        uses.join("; ")
      }. It stays connected; end what uses it (unpublish ` +
        "it, unmount what no pod needs), then it is tried again",
    );
  }
  const mounted = await parts.mounts.at(input.stagingPath, options) !== undefined;
  if (mounted) {
    for (const session of traces.sessions) if (!session.live) throw hanging(session.nqn);
    await parts.mounts.unmount(input.stagingPath, traces.isOurs, options);
  }
  for (const session of traces.sessions) await parts.sessions.disconnect(session.nqn, options);
  parts.figures.delete(input.volumeId);
  // A mkfs that was begun is finished by this node alone, so it must still know of it when the volume comes back. What was
  // mounted had come to its end.
  if (mounted || !traces.record?.mkfs) await parts.records.remove(input.volumeId);
}

function hanging(nqn: string): Unreachable {
  return new Unreachable(
    `the NVMe session of ${nqn} is not live: unmounting its filesystem would hang until it is. The kernel reconnects by ` +
      "itself; look at the network to the server. It is tried again",
  );
}
