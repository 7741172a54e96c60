import { deviceNodeAt, removeDeviceNode } from "../mounts/device_node.ts";
import { type FilesystemType, filesystemType } from "../mounts/filesystem.ts";
import { checkedMountOptions } from "../mounts/options.ts";
import { isVolumeId, nqnOf, parseManagedNqn } from "../nvme/nqn.ts";
import type { Device, Target } from "../nvme/session.ts";
import { numbersOf } from "../nvme/sysfs.ts";
import { FailedPrecondition, InvalidArgument, NotFound } from "../runtime/errors.ts";
import { log } from "../runtime/log.ts";
import type { StagingParts } from "./parts.ts";
import type { StagingRecord } from "./records.ts";

/** How a volume is to be used. */
export type Capability = { kind: "filesystem"; fsType: string; mountOptions: readonly string[] } | { kind: "block" };

/** What stage and publish are told of a volume. */
export interface VolumeInput {
  volumeId: string;
  stagingPath: string;
  capability: Capability;
  readOnly: boolean;
  /** From ControllerPublishVolume: what is true of the moment. Older drivers wrote fewer keys. */
  publishContext: Readonly<Record<string, string>>;
  /** From CreateVolume: never changes. Older drivers wrote fewer keys. */
  volumeContext: Readonly<Record<string, string>>;
}

export interface Cancellable {
  signal?: AbortSignal | undefined;
}

/** @throws {InvalidArgument} when an id is none of this driver's */
export function requireVolumeId(volumeId: string): void {
  if (isVolumeId(volumeId)) return;
  throw new InvalidArgument(`'${volumeId}' is no volume of this driver: its ids are pvc- and 28 hex digits or a UUID`);
}

function integer(
  context: VolumeInput["volumeContext"],
  key: string,
  range: { or: number; from: number; to?: number },
): number {
  const text = context[key];
  if (text === undefined || text === "") return range.or;
  const value = Number(text);
  const to = range.to ?? 2 ** 31 - 1;
  if (/^-?\d{1,16}$/.test(text) && value >= range.from && value <= to) return value;
  throw new InvalidArgument(`'${key}' of the volume is '${text}', not a whole number from ${range.from} to ${to}`);
}

/**
 * The NQN that the publish context (else the volume context, else the id) names.
 * @throws {InvalidArgument} when it is not one of ours, or names another volume
 */
export function nqnFor(input: VolumeInput, prefix: string): string {
  requireVolumeId(input.volumeId);
  const nqn = input.publishContext.nvme_nqn || input.volumeContext.nqn || nqnOf(prefix, input.volumeId);
  if (parseManagedNqn(prefix, nqn)?.volumeId === input.volumeId) return nqn;
  throw new InvalidArgument(
    `the NQN '${nqn}' is not one of volume ${input.volumeId} under the managed prefix '${prefix}': it is not connected. ` +
      "Set CSI_MANAGED_NQN_PREFIX to the same value on controller and nodes",
  );
}

/** @throws {InvalidArgument} for a block volume that is to be read-only: whoever is root in the pod can write to a node */
export function requireKeepable(input: VolumeInput): void {
  if (!input.readOnly || input.capability.kind !== "block") return;
  throw new InvalidArgument(
    `block volume ${input.volumeId} is asked for read-only: a device node cannot be kept so. Ask for it without readOnly, ` +
      "or use volumeMode: Filesystem",
  );
}

/** Where the volume is and how the kernel is to hold on to it; each missing key has its default. */
export function targetOf(input: VolumeInput, parts: StagingParts): Target {
  const { publishContext, volumeContext } = input;
  const nqn = nqnFor(input, parts.prefix);
  const address = publishContext.nvme_address || volumeContext.nvmeAddress;
  if (!address || !/^[\w.:-]+$/.test(address) || address.startsWith("-")) {
    throw new InvalidArgument(
      `volume ${input.volumeId} comes with the storage address '${
        address ?? ""
      }': set nvmeAddress in its StorageClass to ` +
        "the address of the server's NVMe/TCP port, or repair the PV's volumeAttributes",
    );
  }
  const port = integer(volumeContext, "nvmePort", { or: 4420, from: 1, to: 65535 });
  return {
    nqn,
    address,
    port: integer(publishContext, "nvme_port", { or: port, from: 1, to: 65535 }),
    ctrlLossTmo: integer(volumeContext, "ctrlLossTmo", { or: -1, from: -1 }),
    reconnectDelay: integer(volumeContext, "reconnectDelay", { or: 5, from: 1 }),
    keepAliveTmo: integer(volumeContext, "keepAliveTmo", { or: 0, from: 0 }),
  };
}

/** How a filesystem is to be made and mounted. */
export interface Plan {
  type: FilesystemType;
  mountOptions: string[];
  readOnly: boolean;
}

/** @throws {InvalidArgument} for a filesystem or a mount option that the driver refuses */
export function planOf(input: VolumeInput, capability: { fsType: string; mountOptions: readonly string[] }): Plan {
  const given = checkedMountOptions(capability.mountOptions);
  const isMode = (option: string) => option === "ro" || option === "rw";
  const readOnly = input.readOnly || given.findLast(isMode) === "ro"; // For mount(8) the last one counts.
  const others = given.filter((option) => !isMode(option));
  return {
    type: filesystemType(capability.fsType || input.publishContext.fs_type || "ext4"),
    mountOptions: readOnly ? [...others, "ro"] : others,
    readOnly,
  };
}

/**
 * What is noted of a staged volume: all anew but what is still here of earlier. Nobody unstages what was just staged.
 * @param here its device, and as what it was connected and mounted where that is known
 */
export function recordOf(
  input: VolumeInput,
  here: { device: Device; target: Target | undefined; plan: Plan | undefined },
  before?: StagingRecord,
): StagingRecord {
  const { volumeId, stagingPath, capability: { kind } } = input;
  const { device: { nqn, majorMinor, size }, target, plan } = here;
  const { targets, formerNumbers, readOnlyTarget } = before ?? {};
  const pv = input.publishContext.pv_name || before?.pv;
  return {
    ...{ volumeId, nqn, kind, majorMinor, stagingPath },
    ...(pv ? { pv } : {}),
    ...(target ? { target } : {}),
    size,
    ...(plan ? { mount: { fsType: plan.type, options: plan.mountOptions } } : {}),
    ...(targets ? { targets } : {}),
    ...(formerNumbers ? { formerNumbers } : {}),
    ...(readOnlyTarget ? { readOnlyTarget } : {}),
  };
}

/**
 * Connects a volume. The kernel gives a number anew when nothing holds its device open, and a device node of another
 * volume may still have it: whoever has that node would see this volume. Then it is not kept connected.
 * @throws {FailedPrecondition} when another volume's published device node has the number of this volume's device
 */
export async function connectVolume(
  parts: StagingParts,
  { volumeId, target }: { volumeId: string; target: Target },
  options: Cancellable = {},
): Promise<Device> {
  const before = await parts.sysfs.session(target.nqn, options);
  const device = await parts.sessions.connect(target, options);
  const other = await nodeOfAnother(parts, volumeId, numbersOf(device));
  if (!other) return device;
  if (!before) await parts.sessions.disconnect(target.nqn, options);
  throw new FailedPrecondition(
    `the device of volume ${volumeId} got the number ${device.majorMinor}, which the device of volume ${other.volumeId} had ` +
      `before: its pod has a device node of it at ${other.path} and would see this volume. Restart that pod; then this ` +
      "is tried again",
  );
}

async function nodeOfAnother(parts: StagingParts, volumeId: string, numbers: readonly string[]) {
  const others = (await parts.records.volumeIds()).filter((each) => each !== volumeId);
  const nodes = await Promise.all(others.map(async (other) => {
    const record = await parts.records.read(other).catch(() => undefined); // A broken one must not keep all others away.
    for (const path of record?.targets ?? []) {
      const number = await deviceNodeAt(path);
      if (number === undefined || !numbers.includes(number)) continue;
      if (!record?.rebooted) return { volumeId: other, path };
      log.info("a device node of an earlier start of the machine is removed", { volumeId: other, path });
      await removeDeviceNode(path, number);
    }
    return undefined;
  }));
  return nodes.find((node) => node !== undefined);
}

/**
 * The device, once it has the size that the publish context promises: growth while it was connected is asked for.
 * @throws {Unreachable} when it is smaller: it would be the wrong device, or not yet the right one
 */
export async function atPromisedSize(
  parts: StagingParts,
  input: VolumeInput,
  device: Device,
  options: Cancellable,
): Promise<Device> {
  const promised = integer(input.publishContext, "size_bytes", { or: 0, from: 0, to: Number.MAX_SAFE_INTEGER });
  if (device.size >= promised) return device;
  log.info("a device is smaller than its volume: asking the server", {
    volumeId: input.volumeId,
    size: device.size,
    promised,
  });
  return await parts.sessions.rescan(device.nqn, promised, options);
}

/**
 * Whether Kubernetes has the volume attached here under an NQN; undefined: there is no Kubernetes.
 * @throws when there is no answer
 */
export async function isAttachedAs(
  parts: StagingParts,
  { volumeId, nqn }: { volumeId: string; nqn: string },
  options: Cancellable = {},
): Promise<boolean | undefined> {
  const attachments = await parts.cluster?.attachmentsHere(options);
  return attachments?.some((each) => each.volumeId === volumeId && each.nqn === nqn && each.attached && !each.deleting);
}

/**
 * The live device of a volume that is staged, whatever the generation of its NQN.
 * @throws {NotFound} when this node has no session of the volume
 */
export async function deviceOfVolume(
  parts: StagingParts,
  volumeId: string,
  options: Cancellable = {},
): Promise<Device> {
  const sessions = isVolumeId(volumeId) ? await parts.sessions.ofVolume(volumeId, options) : [];
  const chosen = sessions.find((session) => session.live) ?? sessions[0];
  if (!chosen) throw new NotFound(`volume ${volumeId} is not staged on this node: it has no NVMe session`);
  if (sessions.filter((session) => session.live).length > 1) {
    throw new FailedPrecondition(
      `volume ${volumeId} has ${sessions.length} NVMe sessions on this node (${
        sessions.map(({ nqn }) => nqn).join(", ")
      }): ` +
        "which is the right one is not known. Unstage the volume (delete its pods here), then stage it again",
    );
  }
  return await parts.sessions.device(chosen.nqn, options);
}
