import { whyNotIdle } from "../mounts/exclusive_open.ts";
import { isNodeOf } from "../nvme/session.ts";
import { throwIfAborted } from "../runtime/deadline.ts";
import { InUse } from "../runtime/errors.ts";
import { log } from "../runtime/log.ts";
import { notLive } from "./dead_sessions.ts";
import { kubeletPods } from "./kubelet_pods.ts";
import { forget, letGo } from "./let_go.ts";
import type { StagingParts } from "./parts.ts";
import type { StagingRecord } from "./records.ts";
import { type Traces, tracesOf, withoutOldNodes } from "./uses.ts";
import { described, othersOf, type User, usersOf } from "./users.ts";
import { type Cancellable, requireVolumeId } from "./volume.ts";

interface UnstageInput {
  volumeId: string;
  stagingPath: string;
}

/**
 * Reverses stage (CSI 1.13 §NodeUnstageVolume): takes away what pods left behind that are gone, unmounts the staging
 * path, proves that nobody uses the device, and ends the volume's sessions, proven. What is gone already is fine, also all
 * of it. Dead sessions are let go where they are not needed any more.
 * @throws {InUse} while the volume is used, or may be: nothing was changed; only who holds the device unseen is found when
 * the staging path has been unmounted
 * @throws {FailedPrecondition} when its record cannot be used, so that its users cannot be seen
 * @throws {Unreachable} when its session is not live and may be needed, or does not end
 */
export async function unstage(parts: StagingParts, input: UnstageInput, options: Cancellable = {}): Promise<void> {
  requireVolumeId(input.volumeId);
  const { volumeId, stagingPath } = input;
  const wasMounted = await parts.mounts.at(stagingPath, options) !== undefined;
  await letGo(parts, volumeId, { stagingPath, unstaging: true, ...options });
  const traces = await tracesOf(parts, volumeId, options);
  const leftBehind = await requireOthersGone(parts, traces, stagingPath, options);
  throwIfAborted(options.signal);
  if (traces.record && !traces.record.unstaging) await noteUnstaging(parts, traces.record);
  await parts.mounts.unmount(stagingPath, traces.isOurs, options);
  for (const target of leftBehind) {
    log.info("a mount that a pod left behind is taken away", { volumeId, target });
    await parts.mounts.unmountTarget(target, traces.isOurs, options);
  }
  await requireIdle(parts, traces, options);
  for (const session of traces.sessions) {
    throwIfAborted(options.signal);
    await parts.sessions.disconnect(session.nqn, options);
  }
  await withoutOldNodes(parts, traces.record);
  await forget(parts, traces, { wasMounted });
}

/** So that the next life of the agent finishes it. Without room for the note it is the kubelet's repeated call that does. */
async function noteUnstaging(parts: StagingParts, record: StagingRecord): Promise<void> {
  await parts.records.write({ ...record, unstaging: true }).catch((error) => {
    log.warn("that a volume is being unstaged cannot be noted", { volumeId: record.volumeId, error });
  });
}

/**
 * Makes sure that nobody but the staging path uses a volume, and pods that are gone.
 * @returns the targets of the mounts that these left behind, in the order of unmounting
 * @throws {InUse} with who does
 */
async function requireOthersGone(
  parts: StagingParts,
  traces: Traces,
  stagingPath: string,
  options: Cancellable,
): Promise<string[]> {
  const others = await othersOf(parts, traces, { stagingPath, ...options });
  if (others.length === 0) return [];
  const pods = await kubeletPods(parts, options);
  const isLeftBehind = (user: User) => user.kind === "mount" && pods.isOrphan(user.mount.target);
  const inUse = others.filter((user) => !isLeftBehind(user));
  if (inUse.length > 0) throw used(traces, inUse.map(described));
  return others.flatMap((user) => user.kind === "mount" ? [user.mount.target] : []).reverse();
}

/** The last look, when nothing of the driver holds the device any more. It is touched only if its session is live. */
async function requireIdle(parts: StagingParts, traces: Traces, options: Cancellable): Promise<void> {
  if (traces.sessions.length === 0) return;
  const now = await tracesOf(parts, traces.volumeId, options);
  const users = await usersOf(parts, now, options);
  if (users.length > 0) throw used(traces, users.map(described));
  for (const session of now.sessions) {
    if (!session.live) throw notLive(parts, session, { what: "looking who uses its device", pv: traces.record?.pv });
    for (const device of session.namespaces) {
      throwIfAborted(options.signal);
      const { commands, deadlines: { command: deadline } } = parts;
      const why = await isNodeOf(device)
        ? await whyNotIdle(device.path, { commands, deadline, ...options })
        : `${device.path} is not its device node, so that it cannot be looked whether it is held`;
      if (why !== undefined) throw used(traces, [why]);
    }
  }
}

function used({ volumeId }: Traces, who: string[]): InUse {
  return new InUse(
    `volume ${volumeId} is in use on this node: ${who.join("; ")}. It stays connected; end what uses it (unpublish ` +
      "it, unmount what no pod needs, let go of what was built on it), then it is tried again",
  );
}
