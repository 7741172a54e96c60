import type { StatsFs } from "node:fs";
import { statfs } from "node:fs/promises";
import { deviceNodeAt } from "../mounts/device_node.ts";
import { type Mount, resolved } from "../mounts/mountinfo.ts";
import { numbersOf } from "../nvme/sysfs.ts";
import { abortable, Deadline } from "../runtime/deadline.ts";
import { NotFound, TimedOut } from "../runtime/errors.ts";
import { problemAt, problemsOf, sightOf } from "./condition.ts";
import type { StagingParts, Usage } from "./parts.ts";
import { type Traces, tracesOf } from "./uses.ts";
import type { Cancellable } from "./volume.ts";

export interface Stats {
  /** With an abnormal condition the last known ones: the kubelet reads no condition where there is no usage. */
  usage: Usage[];
  condition: { abnormal: boolean; message: string };
}

const healthy = { abnormal: false, message: "the NVMe session is live" };
const gone = { abnormal: true, message: "no NVMe session has the device of this path any more: restart the pod" };

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
  const session = traces.sessions.find(({ namespaces }) => namespaces.flatMap(numbersOf).includes(majorMinor));
  // Of a device that is gone nothing is known, and 0 bytes are said.
  const total: Usage[] = [{ unit: "bytes", total: (session ?? traces.sessions[0])?.namespaces[0]?.size ?? 0 }];
  const known = parts.figures.get(input.volumeId) ?? total;
  const problem = await problemOf(parts, traces, input.volumePath, options);
  if (!session?.live) return { usage: known, condition: problem ?? gone };
  const { usage, condition } = mount
    ? await filesystemStats(parts, input, { mount, known }, options)
    : { usage: total, condition: healthy };
  return { usage, condition: problem ?? condition };
}

async function problemOf(
  parts: StagingParts,
  { sessions, record }: Traces,
  path: string,
  options: Cancellable,
): Promise<Stats["condition"] | undefined> {
  const mounts = await parts.mounts.all(options);
  const problems = problemsOf(await sightOf(parts, { sessions, record, mounts }, options));
  const message = problemAt(problems, await resolved(path) ?? path)?.message;
  return message === undefined ? undefined : { abnormal: true, message };
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
