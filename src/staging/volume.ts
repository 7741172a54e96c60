import { FailedPrecondition, InvalidArgument, NotFound, Unreachable } from "../runtime/errors.ts";
import { log } from "../runtime/log.ts";
import { isVolumeId, nqnOf, parseManagedNqn } from "../nvme/nqn.ts";
import { type Device, isNodeOf, type Target } from "../nvme/session.ts";
import type { StagingParts } from "./parts.ts";

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
    ...parts.host,
  };
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

/** @throws {Unreachable} when the device, or its device node, changed between two looks: nothing is written then */
export async function requireSame(parts: StagingParts, device: Device, options: Cancellable): Promise<void> {
  const now = await parts.sessions.device(device.nqn, options);
  const same = now.majorMinor === device.majorMinor && now.size === device.size && now.nsid === device.nsid &&
    now.path === device.path;
  if (same && await isNodeOf(now)) return;
  throw new Unreachable(`the device of ${device.nqn} changed while it was looked at: nothing was written; try again`);
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
