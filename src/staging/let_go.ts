import { removeDeviceNode } from "../mounts/device_node.ts";
import { foreignMount } from "../mounts/mount.ts";
import { type Mount, resolved } from "../mounts/mountinfo.ts";
import { type ManagedSession, numbersOf } from "../nvme/sysfs.ts";
import { throwIfAborted } from "../runtime/deadline.ts";
import { InUse } from "../runtime/errors.ts";
import { log } from "../runtime/log.ts";
import { letGoAnnotation, notLive, type Permission, permissionFor } from "./dead_sessions.ts";
import { type KubeletPods, kubeletPods } from "./kubelet_pods.ts";
import type { StagingParts } from "./parts.ts";
import type { StagingRecord } from "./records.ts";
import { type Traces, tracesOf } from "./uses.ts";
import { described, type User, usersOf } from "./users.ts";
import type { Cancellable } from "./volume.ts";

/**
 * Lets the sessions of a volume go that are not live, where they are not needed any more: first disconnected, which makes
 * the kernel fail the I/O that waits, and then unmounted. Live sessions of the volume, and what is mounted of them, are
 * left alone. The record goes when nothing of the volume is left. Whoever calls holds the volume against other operations.
 * @param options.stagingPath where it is not given, the noted one
 * @param options.leaving a target that is being unpublished, whose mount goes, too
 * @param options.unstaging whether nothing of the volume is needed on this node, whichever rule lets the session go
 * @throws {Unreachable} when a session may be needed, with what to do; or does not end
 * @throws {InUse} when pods that Kubernetes has here, or what was built on the device, need it: nothing was changed
 * @throws {FailedPrecondition} when the volume's record cannot be used, or something does not let itself be unmounted
 */
export async function letGo(
  parts: StagingParts,
  volumeId: string,
  options: { stagingPath?: string; leaving?: string; unstaging?: boolean } & Cancellable = {},
): Promise<void> {
  const { signal, leaving } = options;
  const traces = await tracesOf(parts, volumeId, { signal });
  const dead = traces.sessions.filter((session) => !session.live);
  if (dead.length === 0) return;
  const permissions = await permissionsFor(parts, { record: traces.record, dead }, { signal });
  const stagingPath = options.stagingPath ?? traces.record?.stagingPath;
  const own = only(traces, dead);
  const { inTheWay, mounts, nodes } = await sorted(
    parts,
    own,
    { going: [stagingPath, leaving], permissions },
    { signal },
  );
  if (inTheWay.length > 0) throw stillUsed(volumeId, dead, inTheWay);
  for (const { target } of mounts) {
    const foreign = (await parts.mounts.all({ signal })).find((mount) => mount.target === target && !own.isOurs(mount));
    if (foreign) throw foreignMount(foreign);
  }
  const unneeded = options.unstaging === true || [...permissions].every((each) => each === "detached");
  const record = traces.record ?? recordOf(volumeId, { dead, stagingPath, mounts });
  if (record) await parts.records.write(unneeded ? { ...record, unstaging: true } : record);
  for (const { nqn } of dead) {
    throwIfAborted(signal);
    log.warn("a dead NVMe session is let go", { volumeId, nqn, because: [...permissions] });
    await parts.sessions.disconnect(nqn, { signal });
  }
  // At once: what comes now may have to be tried again, and then there is no session any more to tell of.
  tell(parts, traces, { dead, permissions });
  await clean(parts, { traces: own, mounts, nodes }, { signal });
  const left = await tracesOf(parts, volumeId, { signal });
  const isLeft = left.sessions.length > 0 || (await usersOf(parts, left, { signal })).length > 0;
  if (!isLeft) await forget(parts, left, { wasMounted: mounts.length > 0 });
}

/** When the session is gone, nothing but the record says whose the mounts are that are left. */
function recordOf(
  volumeId: string,
  { dead, stagingPath, mounts: [mount] }: {
    dead: readonly ManagedSession[];
    stagingPath: string | undefined;
    mounts: readonly Mount[];
  },
): StagingRecord | undefined {
  const nqn = dead[0]?.nqn;
  if (nqn === undefined || stagingPath === undefined || mount === undefined) return undefined;
  return { volumeId, nqn, kind: "filesystem", majorMinor: mount.majorMinor, stagingPath };
}

async function permissionsFor(
  parts: StagingParts,
  { record, dead }: { record: StagingRecord | undefined; dead: readonly ManagedSession[] },
  options: Cancellable,
): Promise<Set<Permission>> {
  const permissions = new Set<Permission>();
  for (const session of dead) {
    const answer = await permissionFor(parts, session, { pv: record?.pv, ...options });
    if (!answer.permission) {
      throw notLive(parts, session, { what: "unmounting it", pv: record?.pv, unknown: answer.unknown });
    }
    permissions.add(answer.permission);
  }
  return permissions;
}

/** The traces of some sessions of a volume alone. */
function only(traces: Traces, sessions: ManagedSession[]): Traces {
  const others = traces.sessions.filter((each) => !sessions.includes(each)).flatMap(({ namespaces }) => namespaces);
  const foreign = new Set(others.flatMap(numbersOf));
  const names = sessions.flatMap(({ namespaces }) => namespaces)
    .flatMap((each) => [each, ...each.partitions].map(({ name }) => name));
  const owns = (number: string) => traces.owns(number) && !foreign.has(number);
  return { ...traces, sessions, names, owns, isOurs: ({ majorMinor }) => owns(majorMinor) };
}

/** What is to be cleaned after the disconnect, and what forbids it. */
async function sorted(
  parts: StagingParts,
  traces: Traces,
  { going, permissions }: { going: readonly (string | undefined)[]; permissions: ReadonlySet<Permission> },
  options: Cancellable,
): Promise<{ inTheWay: User[]; mounts: Mount[]; nodes: string[] }> {
  const places = await Promise.all(going.flatMap((path) => path === undefined ? [] : [resolved(path)]));
  const users = await usersOf(parts, traces, options);
  const pods = await kubeletPods(parts, options);
  const goes = (user: User) => user.kind === "mount" && places.includes(user.mount.target) || isLeftBehind(user, pods);
  // An administrator answers for the pods, but what is built on the device would keep it in the kernel.
  const forced = permissions.has("administrator");
  return {
    inTheWay: users.filter((user) => user.kind === "device" || !forced && !goes(user)),
    mounts: users.flatMap((user) => user.kind === "mount" && goes(user) ? [user.mount] : []),
    nodes: users.flatMap((user) => user.kind === "node" && goes(user) ? [user.path] : []),
  };
}

function isLeftBehind(user: User, pods: KubeletPods): boolean {
  if (user.kind === "mount") return pods.isOrphan(user.mount.target);
  return user.kind === "node" && pods.isOrphan(user.path);
}

function stillUsed(volumeId: string, dead: readonly ManagedSession[], users: readonly User[]): InUse {
  const nqns = dead.map(({ nqn }) => nqn).join(", ");
  return new InUse(
    `the NVMe session of ${nqns} is dead and not needed any more, but volume ${volumeId} is in use on this node: ` +
      `${
        users.map(described).join("; ")
      }. The pods that have it must go first ('kubectl delete pod'; of a pod that does ` +
      "not end, look whether its node is well); take away yourself what no pod has. It is tried again",
  );
}

/** After the disconnect nothing of it waits for the server. The last mount first: one may stand in another. */
async function clean(
  parts: StagingParts,
  { traces, mounts, nodes }: { traces: Traces; mounts: readonly Mount[]; nodes: readonly string[] },
  options: Cancellable,
): Promise<void> {
  for (const { target } of mounts.toReversed()) {
    throwIfAborted(options.signal);
    await parts.mounts.unmountTarget(target, traces.isOurs, options);
  }
  // Only those that the driver made, of pods that are gone: the number may be another device's tomorrow.
  for (const path of nodes.filter((each) => traces.record?.targets?.includes(each))) {
    for (const number of traces.sessions.flatMap(({ namespaces }) => namespaces.map(({ majorMinor }) => majorMinor))) {
      await removeDeviceNode(path, number);
    }
  }
}

/**
 * Removes the record of a volume that is not here any more. A mkfs that was begun is finished by this node alone, so it
 * must still know of it when the volume comes back; what was mounted had come to its end.
 */
export async function forget(
  parts: StagingParts,
  { volumeId, record }: Traces,
  { wasMounted }: { wasMounted: boolean },
): Promise<void> {
  parts.figures.delete(volumeId);
  if (wasMounted || !record?.mkfs) return await parts.records.remove(volumeId);
  const { unstaging: _, ...noted } = record;
  await parts.records.write({ ...noted, mkfsLeft: true });
}

function tell(
  parts: StagingParts,
  { volumeId, record }: Traces,
  { dead, permissions }: { dead: readonly ManagedSession[]; permissions: ReadonlySet<Permission> },
): void {
  const why = [...permissions].map((each) => reasons[each]).join("; ");
  parts.cluster?.tell(
    { volumeId, pv: record?.pv },
    "SessionLetGo",
    `node ${parts.nodeId ?? "(unknown)"} ended the NVMe session of ${
      dead.map(({ nqn }) => nqn).join(", ")
    }, which was ` +
      `not live: ${why}. What was written and had not reached the server is lost`,
  );
}

const reasons: Record<Permission, string> = {
  "detached": "the volume is not attached to the node any more",
  "old generation": "its attachment was moved to a newer generation of the export",
  "administrator":
    `the annotation ${letGoAnnotation} of its PV names the node; remove it before the volume is used again`,
};
