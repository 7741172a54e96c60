import { deviceNodeAt, removeDeviceNode } from "../mounts/device_node.ts";
import type { Mount } from "../mounts/mountinfo.ts";
import { isVolumeId } from "../nvme/nqn.ts";
import { type ManagedSession, type Namespace, numbersOf } from "../nvme/sysfs.ts";
import { FailedPrecondition } from "../runtime/errors.ts";
import { numbersNoted } from "./condition.ts";
import type { StagingParts } from "./parts.ts";
import type { StagingRecord } from "./records.ts";
import type { Cancellable, Capability } from "./volume.ts";

/** What this node has of a volume, whatever became of it. */
export interface Traces {
  volumeId: string;
  sessions: ManagedSession[];
  record: StagingRecord | undefined;
  /** Why there is no record though there is a file: nothing may be concluded from that. */
  unusable: FailedPrecondition | undefined;
  /** Names of its devices of today, partitions included: `nvme0n1`, `nvme0n1p1`. */
  names: string[];
  /** Whether a device number is the volume's. */
  owns: (majorMinor: string) => boolean;
  /** Whether a mount is of this volume. */
  isOurs: (mount: Mount) => boolean;
}

/** Looks for what is left of a volume: its sessions, its record, and how its mounts are known. */
export async function tracesOf(parts: StagingParts, volumeId: string, options: Cancellable = {}): Promise<Traces> {
  const sessions = await parts.sessions.ofVolume(volumeId, options);
  const { record, unusable } = await noted(parts, volumeId);
  const devices = sessions.flatMap(({ namespaces }) => namespaces);
  const own = new Set(devices.flatMap(numbersOf));
  // A session may be gone while its mounts are not. The noted number is theirs unless a device of today has it.
  const former = numbersNoted(record).filter((number) => !own.has(number));
  const owners = await parts.sysfs.ownersOf(former, options);
  for (const number of former) if (!owners.has(number)) own.add(number);
  const names = devices.flatMap((device) => [device, ...device.partitions].map(({ name }) => name));
  const owns = (majorMinor: string) => own.has(majorMinor);
  return { volumeId, sessions, record, unusable, names, owns, isOurs: (mount) => owns(mount.majorMinor) };
}

async function noted(parts: StagingParts, volumeId: string): Promise<Pick<Traces, "record" | "unusable">> {
  if (!isVolumeId(volumeId)) return { record: undefined, unusable: undefined };
  try {
    return { record: await parts.records.read(volumeId), unusable: undefined };
  } catch (error) {
    if (error instanceof FailedPrecondition) return { record: undefined, unusable: error };
    throw error;
  }
}

/** The targets of a block volume where a device node is. What is left of an earlier start of the machine is none. */
export async function publishedNodes(record: StagingRecord | undefined): Promise<string[]> {
  const nodes: string[] = [];
  if (record?.rebooted) return nodes;
  for (const target of record?.targets ?? []) if (await deviceNodeAt(target)) nodes.push(target);
  return nodes;
}

/**
 * Takes away the device nodes that stayed on disk when the machine was started anew: they are another device's by then,
 * and whoever needs the volume has it published anew.
 */
export async function withoutOldNodes(
  parts: Pick<StagingParts, "records">,
  record: StagingRecord | undefined,
): Promise<StagingRecord | undefined> {
  if (!record?.rebooted || !record.targets) return record;
  for (const path of record.targets) {
    const number = await deviceNodeAt(path);
    if (number !== undefined) await removeDeviceNode(path, number);
  }
  const { targets: _, ...kept } = record;
  await parts.records.write(kept);
  return kept;
}

/**
 * A volume is a filesystem or a block device on a node, never both at once: each would destroy what the other holds.
 * @throws {FailedPrecondition} when it is in use as the other
 */
export async function requireKind(
  parts: StagingParts,
  kind: Capability["kind"],
  options: { volumeId: string; device: Namespace; record: StagingRecord | undefined } & Cancellable,
): Promise<void> {
  const { device, record, volumeId } = options;
  // What the user of a block volume mounts is the user's own affair.
  const [other, places] = kind === "filesystem"
    ? ["block device", await publishedNodes(record)]
    : ["filesystem", record?.kind === "block" ? [] : await mountsAt(parts, device, options)];
  if (places.length === 0) return;
  throw new FailedPrecondition(
    `volume ${volumeId} is in use as ${other} on this node (${places.join(", ")}) and was asked for as ${
      kind === "block" ? "block device" : "filesystem"
    }: ` +
      "end the pods that use it so, or use the volumeMode that it has",
  );
}

async function mountsAt(parts: StagingParts, device: Namespace, options: Cancellable): Promise<string[]> {
  const own = numbersOf(device);
  return (await parts.mounts.all(options)).filter(({ majorMinor }) => own.includes(majorMinor))
    .map(({ target }) => target);
}
