import { deviceNodeAt } from "../mounts/device_node.ts";
import { type Mount, resolved } from "../mounts/mountinfo.ts";
import { isVolumeId } from "../nvme/nqn.ts";
import type { ManagedSession } from "../nvme/sysfs.ts";
import type { StagingParts } from "./parts.ts";
import type { StagingRecord } from "./records.ts";
import type { Cancellable } from "./volume.ts";

/** What this node has of a volume, whatever became of it. */
export interface Traces {
  volumeId: string;
  sessions: ManagedSession[];
  record: StagingRecord | undefined;
  /** Whether a mount is of this volume. */
  isOurs: (mount: Mount) => boolean;
}

/** Looks for what is left of a volume: its sessions, its record, and how its mounts are known. */
export async function tracesOf(parts: StagingParts, volumeId: string): Promise<Traces> {
  const sessions = await parts.sessions.ofVolume(volumeId);
  const record = isVolumeId(volumeId) ? await parts.records.read(volumeId) : undefined;
  const own = new Set(sessions.flatMap((session) => session.namespaces.map((namespace) => namespace.majorMinor)));
  // A session may be gone while its mounts are not. The noted number is theirs unless a device of today has it.
  if (record && !await parts.sysfs.nqnOfDevice(record.majorMinor)) own.add(record.majorMinor);
  return { volumeId, sessions, record, isOurs: (mount) => own.has(mount.majorMinor) };
}

/**
 * Who uses a volume on this node as far as can be seen: mounts of its device (other than the staging one), published
 * device nodes, devices built on it. Empty: nobody was seen.
 */
export async function usesOf(
  parts: StagingParts,
  traces: Traces,
  options: { stagingPath: string } & Cancellable,
): Promise<string[]> {
  const staging = await resolved(options.stagingPath);
  const mounts = (await parts.mounts.all(options)).filter((mount) => traces.isOurs(mount) && mount.target !== staging);
  const uses = mounts.map((mount) => `a mount at ${mount.target}`);
  for (const target of traces.record?.targets ?? []) {
    if (await deviceNodeAt(target)) uses.push(`a device node at ${target}`);
  }
  for (const { name, holders } of traces.sessions.flatMap((session) => session.namespaces)) {
    uses.push(...holders.map((holder) => `${holder}, built on ${name}`));
  }
  return uses;
}
