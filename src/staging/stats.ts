import type { StatsFs } from "node:fs";
import { statfs } from "node:fs/promises";
import { deviceNodeAt } from "../mounts/device_node.ts";
import type { Mount } from "../mounts/mountinfo.ts";
import { type ManagedSession, numbersOf } from "../nvme/sysfs.ts";
import { abortable, Deadline } from "../runtime/deadline.ts";
import { NotFound, TimedOut } from "../runtime/errors.ts";
import type { StagingParts, Usage } from "./parts.ts";
import { type Traces, tracesOf } from "./uses.ts";
import type { Cancellable } from "./volume.ts";

export interface Stats {
  /** With an abnormal condition the last known ones: the kubelet reads no condition where there is no usage. */
  usage: Usage[];
  condition: { abnormal: boolean; message: string };
}

/** What mountinfo says of a filesystem that the kernel has stopped (fs/ext4/super.c; the last two from 6.15 on). */
const stopped = ["ro", "emergency_ro", "shutdown"];

const healthy = { abnormal: false, message: "the NVMe session is live" };

/**
 * The figures and the condition of a volume at a path where it is staged or published. Touches nothing of a session that
 * is not live.
 * @throws {NotFound} when the volume, or anything of it at that path, is not on this node
 */
export async function stats(
  parts: StagingParts,
  input: { volumeId: string; volumePath: string },
  options: Cancellable = {},
): Promise<Stats> {
  const traces = await tracesOf(parts, input.volumeId, options);
  const mount = await parts.mounts.at(input.volumePath, options);
  const majorMinor = mount?.majorMinor ?? await deviceNodeAt(input.volumePath);
  if (!majorMinor || !(traces.owns(majorMinor) || traces.record?.targets?.includes(input.volumePath))) {
    throw new NotFound(`volume ${input.volumeId} is not on this node at '${input.volumePath}'`);
  }
  const { size, problem } = conditionOf(traces, majorMinor, mount);
  const total: Usage[] = [{ unit: "bytes", total: size }];
  const known = parts.figures.get(input.volumeId) ?? total;
  if (problem) return { usage: known, condition: { abnormal: true, message: problem } };
  return mount ? await filesystemStats(parts, input, { mount, known }, options) : { usage: total, condition: healthy };
}

function conditionOf({ sessions }: Traces, majorMinor: string, mount: Mount | undefined) {
  const session = sessions.find((each) =>
    each.namespaces.some((namespace) => numbersOf(namespace).includes(majorMinor))
  );
  // Of a device that is gone nothing is known, and 0 bytes are said.
  const size = (session ?? sessions[0])?.namespaces[0]?.size ?? 0;
  return { size, problem: problemOf(session, majorMinor, mount) };
}

function problemOf(
  session: ManagedSession | undefined,
  majorMinor: string,
  mount: Mount | undefined,
): string | undefined {
  if (!session) {
    return `no NVMe session of the volume has device ${majorMinor} any more: the path is stale; restart the pod`;
  }
  if (!session.live) {
    const states = session.controllers.map(({ name, state }) => `${name} ${state}`).join(", ");
    return `the NVMe session is not live (${states}): I/O waits until the server answers; look at the network`;
  }
  if (mount && !mount.options.includes("ro") && mount.superOptions.some((option) => stopped.includes(option))) {
    return "the kernel lets nothing be written to the filesystem after errors: look at dmesg, then restart the pod";
  }
  return undefined;
}

async function filesystemStats(
  parts: StagingParts,
  { volumeId }: { volumeId: string },
  { mount, known }: { mount: Mount; known: Usage[] },
  options: Cancellable,
): Promise<Stats> {
  const message = "the filesystem does not answer statfs in time";
  const silent = { usage: known, condition: { abnormal: true, message } };
  if (parts.silent.has(volumeId)) return silent;
  using deadline = new Deadline(parts.deadlines.command, `statfs of ${mount.target}`, options.signal);
  const asking = statfs(mount.target) as Promise<StatsFs>; // Numbers, as bigints were not asked for.
  try {
    const usage = usageOf(await abortable(asking, deadline.signal));
    parts.figures.set(volumeId, usage);
    return { usage, condition: healthy };
  } catch (error) {
    if (!deadline.signal.aborted) throw error;
    // It cannot be called back and holds a thread until the kernel answers.
    parts.silent.add(volumeId);
    asking.catch(() => {}).finally(() => parts.silent.delete(volumeId));
    if (!(error instanceof TimedOut)) throw error;
    return silent;
  }
}

function usageOf({ bsize, blocks, bfree, bavail, files, ffree }: StatsFs): Usage[] {
  return [
    { unit: "bytes", total: blocks * bsize, used: (blocks - bfree) * bsize, available: bavail * bsize },
    { unit: "inodes", total: files, used: files - ffree, available: ffree },
  ];
}
