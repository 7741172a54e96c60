import { infoOf, isNothing, resolved } from "../mounts/mountinfo.ts";
import { abortable, Deadline, throwIfAborted } from "../runtime/deadline.ts";
import { blockNumberOf } from "../runtime/device_number.ts";
import { Unreachable } from "../runtime/errors.ts";
import { kubeletFolderOf, podOf } from "./kubelet_pods.ts";
import type { StagingParts } from "./parts.ts";
import type { Traces } from "./uses.ts";
import type { Cancellable } from "./volume.ts";

/** Where the kubelet has device nodes of block volumes, or binds them to (pkg/volume/csi/csi_block.go). */
const places = [
  "pods/*/volumeDevices/*/*",
  "plugins/kubernetes.io/csi/volumeDevices/publish/*/*",
  "plugins/kubernetes.io/csi/volumeDevices/*/dev/*",
];

/** More paths than this under the kubelet's folder are not looked through. */
const most = 20_000;

/** Milliseconds for a look at what a loop device is made over. */
const longestLook = 500;

export interface DeviceNode {
  path: string;
  majorMinor: string;
}

/**
 * The device nodes under the kubelet's folder that are a volume's, whether they were noted or not. Opens nothing.
 * @throws {Unreachable} when they cannot all be looked at
 */
export async function nodesOfKubelet(
  parts: StagingParts,
  owns: Traces["owns"],
  options: Cancellable = {},
): Promise<DeviceNode[]> {
  const folder = await kubeletFolderOf(parts);
  if (folder === undefined) return [];
  using deadline = new Deadline(parts.deadlines.mountinfo, `the device nodes under ${folder}`, options.signal);
  const walk = async () => {
    const walk = { left: most, signal: deadline.signal };
    const paths = await Array.fromAsync(places, (place) => matches(folder, place.split("/"), walk));
    const nodes: DeviceNode[] = [];
    for (const path of paths.flat()) {
      const info = await infoOf(path);
      const majorMinor = info && blockNumberOf(info);
      if (majorMinor !== undefined && owns(majorMinor)) nodes.push({ path, majorMinor });
    }
    return nodes;
  };
  return await abortable(walk(), deadline.signal);
}

/** The paths under a folder that fit a pattern, no link among the folders. */
async function matches(
  folder: string,
  pattern: string[],
  walk: { left: number; signal: AbortSignal },
): Promise<string[]> {
  throwIfAborted(walk.signal);
  const [first, ...rest] = pattern;
  const names = first === "*" ? await namesIn(folder, rest.length > 0) : [first];
  walk.left -= names.length;
  if (walk.left < 0) {
    throw new Unreachable(
      `there are more than ${most} paths of pods' volumes under the kubelet's folder: whether a device node of the volume is ` +
        "among them is not known. Remove the folders of pods that are gone",
    );
  }
  const paths = names.map((name) => `${folder}/${name}`);
  return rest.length === 0 ? paths : (await Array.fromAsync(paths, (path) => matches(path, rest, walk))).flat();
}

async function namesIn(folder: string, foldersOnly: boolean): Promise<string[]> {
  try {
    const entries = await Array.fromAsync(Deno.readDir(folder));
    return entries.filter(({ isDirectory }) => isDirectory || !foldersOnly).map(({ name }) => name);
  } catch (error) {
    if (isNothing(error)) return [];
    throw error;
  }
}

/** A loop device, and what it was made over. */
export interface Loop {
  name: string;
  backing: string;
}

/**
 * The loop devices over a volume's device or over a node of it: the kubelet makes one for each block volume of a pod, so
 * that the kernel keeps the device (pkg/volume/util/volumepathhandler).
 * @throws {Unreachable} when they cannot be looked at in time
 */
export async function loopsOver(parts: StagingParts, traces: Traces, options: Cancellable = {}): Promise<Loop[]> {
  const folder = await kubeletFolderOf(parts);
  using deadline = new Deadline(parts.deadlines.mountinfo, `${parts.roots.sysfs}/block`, options.signal);
  const look = async () => {
    const loops: Loop[] = [];
    for (const loop of await allLoops(parts.roots.sysfs)) {
      throwIfAborted(deadline.signal);
      if (await isOver(loop, { parts, traces, folder })) loops.push(loop);
    }
    return loops;
  };
  return await abortable(look(), deadline.signal);
}

/**
 * What is at a path that may lie on any mount. One that does not answer holds a thread: it is not asked again meanwhile. It
 * is no node of a volume, as those lie on the kubelet's own disk and in /dev.
 */
async function infoInTime(parts: StagingParts, path: string): Promise<Deno.FileInfo | undefined> {
  if (parts.silent.has(path)) return undefined;
  using deadline = new Deadline(longestLook, path);
  const asking = infoOf(path);
  try {
    return await abortable(asking, deadline.signal);
  } catch (error) {
    if (!deadline.signal.aborted) throw error;
    parts.silent.add(path);
    asking.catch(() => {}).finally(() => parts.silent.delete(path));
    return undefined;
  }
}

async function allLoops(sysfs: string): Promise<Loop[]> {
  const loops: Loop[] = [];
  for (const name of (await namesIn(`${sysfs}/block`, false)).filter((each) => /^loop\d+$/.test(each))) {
    try {
      const backing = (await Deno.readTextFile(`${sysfs}/block/${name}/loop/backing_file`)).replace(/\n$/, "");
      loops.push({ name, backing });
    } catch (error) {
      // Over nothing, or let go while it was looked at (fs/kernfs: ENODEV).
      if (!isNothing(error) && (error as { code?: unknown }).code !== "ENODEV") throw error;
    }
  }
  return loops;
}

async function isOver(
  { backing }: Loop,
  { parts, traces, folder }: { parts: StagingParts; traces: Traces; folder: string | undefined },
): Promise<boolean> {
  const deleted = backing.endsWith(" (deleted)");
  const path = deleted ? backing.slice(0, -" (deleted)".length) : backing;
  for (const target of traces.record?.targets ?? []) if (path === (await resolved(target) ?? target)) return true;
  if ([`/dev`, parts.roots.dev].some((dev) => traces.names.some((name) => path === `${dev}/${name}`))) return true;
  if (!deleted) {
    // What cannot be seen is the host's own: images of its packages and the like. Nodes of volumes are the kubelet's.
    const info = await infoInTime(parts, path).catch(() => undefined);
    const number = info && blockNumberOf(info);
    if (info) return number !== undefined && traces.owns(number);
  }
  // A node that is gone does not say whose it was, but its path does.
  if (folder === undefined || podOf(folder, path) === undefined) return false;
  const pv = traces.record?.pv;
  const names = path.split("/");
  return pv === undefined || names.includes(pv) || names.includes(traces.volumeId);
}
