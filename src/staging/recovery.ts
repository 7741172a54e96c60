import { deviceNodeAt, removeDeviceNode } from "../mounts/device_node.ts";
import { filesystemType } from "../mounts/filesystem.ts";
import { type Mount, mountAt, mountsOf, resolved } from "../mounts/mountinfo.ts";
import type { Device } from "../nvme/session.ts";
import { numbersOf } from "../nvme/sysfs.ts";
import { FailedPrecondition, InUse, Unreachable } from "../runtime/errors.ts";
import { log } from "../runtime/log.ts";
import { isStopped, numbersNoted, type Sight, sightOf, staleMounts } from "./condition.ts";
import type { StagingParts } from "./parts.ts";
import type { StagingRecord } from "./records.ts";
import { pinned } from "./same_device.ts";
import { endTrial, tryMount } from "./trial_mount.ts";
import { type Cancellable, connectVolume, isAttachedAs } from "./volume.ts";

/**
 * Mends in the background what can be mended without touching what a pod uses: connects a session again that the kernel
 * has given up, mounts the staging path anew when its device is gone, renews the noted number of a block volume. To be
 * called under the volume's guard: all is looked at anew.
 * @param options.connected is told the NQN of the session, once it is connected again
 * @returns what was done; undefined: nothing was to be done, or nothing may be
 * @throws {InUse} when pods have the mount of the device that is gone
 */
export async function mend(
  parts: StagingParts,
  volumeId: string,
  options: { connected?: ((nqn: string) => void) | undefined } & Cancellable = {},
): Promise<string | undefined> {
  const record = await parts.records.read(volumeId);
  if (!record || record.unstaging || record.rebooted || record.mkfs !== undefined) return undefined;
  const sessions = await parts.sessions.ofVolume(volumeId, options);
  if (sessions.some(({ nqn, live }) => nqn !== record.nqn || !live)) return undefined;
  const connected = sessions.length === 0 ? await reconnected(parts, record, options) : undefined;
  if (sessions.length === 0 && !connected) return undefined;
  if (connected) options.connected?.(record.nqn);
  const device = connected ?? await parts.sessions.device(record.nqn, options);
  if (device.size < (record.size ?? 0)) {
    throw new Unreachable(
      `the device of volume ${volumeId} came back with ${device.size} bytes and had ${record.size}: it is not used; look ` +
        "at the volume's disk on the server",
    );
  }
  const done = await renew(parts, { record, device }, options);
  return [connected ? `connected ${record.nqn} again` : [], done ?? []].flat().join(", ") || undefined;
}

/**
 * Prepares publishing where the device is not the one any more that was staged, or the kernel has stopped its filesystem:
 * mounts the staging path anew, or takes the volume's old device node away from the target path. What is right already
 * stays, and so does a stopped filesystem that other pods have.
 * @throws {InUse} when other pods have the mount of the device that is gone
 * @throws {FailedPrecondition} when what is at the staging path is not known to be the volume's, or its device holds
 * something else than it did
 */
export async function recover(
  parts: StagingParts,
  input: { volumeId: string; targetPath?: string },
  device: Device,
  options: Cancellable = {},
): Promise<void> {
  const { volumeId, targetPath } = input;
  const record = await parts.records.read(volumeId);
  if (!record || record.rebooted) return; // Nothing says which number the volume had: nothing is proven to be its own.
  const replaced = targetPath !== undefined && await removeOldNode(parts, { record, device, targetPath }, options);
  const done = await renew(parts, { record, device }, options);
  if (done !== undefined || replaced) {
    const message = done ?? `${targetPath} was a device node of a number that is gone: it is made anew`;
    log.info("a volume is recovered", { volumeId, message });
    parts.cluster?.tell({ volumeId, pv: record.pv }, "VolumeRecovered", message);
  }
}

interface Work {
  record: StagingRecord;
  device: Device;
}

async function reconnected(
  parts: StagingParts,
  record: StagingRecord,
  options: Cancellable,
): Promise<Device | undefined> {
  const { volumeId, target, nqn } = record;
  if (!target || target.nqn !== nqn) return undefined;
  // Without Kubernetes whoever staged the volume unstages it, and until then it is wanted.
  if (await isAttachedAs(parts, record, options) === false) return undefined;
  log.info("connecting a session again that the kernel has given up", { volumeId, nqn });
  return await connectVolume(parts, { volumeId, target }, options);
}

async function renew(parts: StagingParts, work: Work, options: Cancellable): Promise<string | undefined> {
  const { record, device } = work;
  const done = record.kind === "filesystem" ? await remount(parts, work, options) : undefined;
  const noted = await renewed(parts, work, options);
  if (JSON.stringify(noted) === JSON.stringify(record)) return done;
  await parts.records.write(noted);
  return done ?? (record.majorMinor === device.majorMinor ? undefined : `noted its device as ${device.majorMinor} now`);
}

/**
 * The record with the number of today's device. Numbers of which mounts or nodes are still here stay noted: how else would
 * those be known to be the volume's?
 */
export async function renewed(
  parts: StagingParts,
  { record, device }: Work,
  options: Cancellable = {},
): Promise<StagingRecord> {
  const { formerNumbers: _former, remounting: _remounting, ...kept } = record;
  const { sight, stale } = await seen(parts, { record, device }, options);
  const here = [...stale, ...sight.nodes].map(({ majorMinor }) => majorMinor);
  const former = numbersNoted(record).filter((number) => number !== device.majorMinor && here.includes(number));
  return {
    ...kept,
    majorMinor: device.majorMinor,
    ...(former.length > 0 ? { formerNumbers: [...new Set(former)] } : {}),
  };
}

async function seen(parts: StagingParts, { record, device }: Work, options: Cancellable) {
  const sessions = (await parts.sessions.ofVolume(record.volumeId, options)).filter(({ nqn }) => nqn === device.nqn);
  const mounts = await parts.mounts.all(options);
  const sight: Sight = await sightOf(parts, { sessions, record, mounts }, options);
  return { sight, stale: staleMounts(sight, new Set(numbersOf(device))) };
}

/**
 * Mounts the staging path anew if what is mounted there stands over a device that is gone, or has a filesystem that the
 * kernel has stopped, and nobody else has it.
 */
async function remount(parts: StagingParts, work: Work, options: Cancellable): Promise<string | undefined> {
  const { record, device } = work;
  const { volumeId, stagingPath, mount } = record;
  const path = await resolved(stagingPath);
  if (mount) await endTrial(parts, { device, stagingPath, mount }, options);
  const { sight, stale } = await seen(parts, work, options);
  const there = path === undefined ? undefined : mountAt(sight.mounts, path);
  if (!there && record.remounting !== path) return undefined;
  if (there?.majorMinor === device.majorMinor) {
    return await restart(parts, work, { there, mounts: sight.mounts }, options);
  }
  if (there && !stale.includes(there)) {
    throw new FailedPrecondition(
      `${stagingPath} is a mount of ${there.source} (${there.majorMinor}), which is not known to be volume ${volumeId}: it is ` +
        `left alone. Look what it is ('findmnt ${stagingPath}'), and unmount it if nothing needs it`,
    );
  }
  const others = stale.filter(({ target }) => target !== path).map(({ target }) => target);
  if (others.length > 0) {
    throw new InUse(
      `volume ${volumeId} came back as device ${device.majorMinor}, and pods have it as it was before (${
        others.slice(0, 3).join(", ")
      }): restart them; then it is mounted anew`,
    );
  }
  await mountAnew(parts, { ...work, stale: there?.majorMinor, path: path as string }, options);
  return `mounted ${stagingPath} anew from device ${device.majorMinor}`;
}

/** Mounts a filesystem anew that the kernel has stopped: the kubelet unstages nothing between two pods of one node. */
async function restart(
  parts: StagingParts,
  work: Work,
  { there, mounts }: { there: Mount; mounts: readonly Mount[] },
  options: Cancellable,
): Promise<string | undefined> {
  if (!isStopped(there) || mountsOf(mounts, there.majorMinor).length > 1) return undefined;
  const { record } = work;
  const { stagingPath } = record;
  await parts.records.write({ ...record, remounting: there.target });
  await parts.mounts.unmount(stagingPath, ({ majorMinor }) => majorMinor === there.majorMinor, options);
  await mountAnew(parts, { ...work, stale: undefined, path: there.target }, options);
  return `mounted ${stagingPath} anew, as the kernel had stopped its filesystem`;
}

async function mountAnew(
  parts: StagingParts,
  { record, device, stale, path }: Work & { stale: string | undefined; path: string },
  options: Cancellable,
): Promise<void> {
  const { mount, volumeId, stagingPath } = record;
  if (!mount) {
    throw new FailedPrecondition(
      `it is not noted how volume ${volumeId} was mounted: delete its pods on this node, so that it is staged again`,
    );
  }
  const filesystems = parts.filesystems(options.signal);
  const content = await filesystems.content(device);
  if (content.kind !== "filesystem" || content.type !== mount.fsType) {
    throw new FailedPrecondition(
      `volume ${volumeId} was staged with ${mount.fsType} and its device (${device.path}) came back with ` +
        `${
          content.kind === "data"
            ? `data (${content.where})`
            : content.kind === "empty"
            ? "nothing on it"
            : content.type
        }: ` +
        "it is not mounted, and nothing is written to it. Look at the volume's disk on the server",
    );
  }
  await filesystems.check(filesystemType(mount.fsType), device);
  await parts.records.write({ ...record, remounting: path });
  if (stale) {
    if (await parts.sysfs.ownerOf(stale, options)) {
      throw new Unreachable(`the device of ${stagingPath} changed while it was looked at: try again`);
    }
    await parts.mounts.unmount(stagingPath, ({ majorMinor }) => majorMinor === stale, options);
  }
  await pinned(parts, device, async () => {
    await tryMount(parts, { device, stagingPath, mount }, options);
    await parts.mounts.mount(device, stagingPath, { fsType: mount.fsType, mountOptions: mount.options, ...options });
  }, options);
}

/** The node that the volume's device had before, if no device has its number now. Anything else stays for publish to refuse. */
async function removeOldNode(
  parts: StagingParts,
  { record, device, targetPath }: Work & { targetPath: string },
  options: Cancellable,
): Promise<boolean> {
  const number = await deviceNodeAt(targetPath);
  if (number === undefined || number === device.majorMinor || !record.targets?.includes(targetPath)) return false;
  if (!numbersNoted(record).includes(number) || await parts.sysfs.ownerOf(number, options)) return false;
  await removeDeviceNode(targetPath, number);
  return true;
}
