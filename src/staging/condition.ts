import { deviceNodeAt } from "../mounts/device_node.ts";
import { infoOf, type Mount } from "../mounts/mountinfo.ts";
import { type ManagedSession, numbersOf } from "../nvme/sysfs.ts";
import type { StagingParts } from "./parts.ts";
import type { StagingRecord } from "./records.ts";
import type { Cancellable } from "./volume.ts";

/** Each is the value of the label `reason` of the metric of abnormal volumes. */
export type ProblemKind =
  | "session_not_live"
  | "session_gone"
  | "stale_mount"
  | "stale_node"
  | "not_mounted"
  | "filesystem_stopped";

/** What is wrong with a volume on this node. */
export interface Problem {
  kind: ProblemKind;
  /** Where it is seen; undefined: wherever the volume is. */
  paths?: string[];
  message: string;
}

/** What one look shows of a volume. */
export interface Sight {
  sessions: readonly ManagedSession[];
  record: StagingRecord | undefined;
  /** All mounts of the host. */
  mounts: readonly Mount[];
  /** The device nodes that were published and are there, with the numbers that they have. */
  nodes: readonly { path: string; majorMinor: string }[];
  /** Whether a block volume is staged: nothing of it is mounted, so its staging folder must tell. */
  hasStagingFolder: boolean;
  /** The NQN of another volume, or of a foreign disk, whose device of today has a number. */
  ownerOf: (majorMinor: string) => string | undefined;
}

/** What mountinfo says of a filesystem that the kernel has stopped (fs/ext4/super.c; the last two from 6.15 on). */
const stopped = ["ro", "emergency_ro", "shutdown"];

/** What is wrong with a volume; nothing: it is well. The gravest first. */
export function problemsOf(sight: Sight): Problem[] {
  const own = new Set(sight.sessions.flatMap(({ namespaces }) => namespaces.flatMap(numbersOf)));
  const stale = staleMounts(sight, own);
  return [
    ...notLive(sight),
    ...gone(sight, stale),
    ...staleMount(sight, stale),
    ...staleNodes(sight, own),
    ...notMounted(sight),
    ...stoppedFilesystem(sight, own),
  ];
}

/** The one that whoever looks at a path of the volume is told. */
export function problemAt(problems: readonly Problem[], path: string): Problem | undefined {
  return problems.find(({ paths }) => paths === undefined || paths.includes(path));
}

/** Mounts over a device that the volume had and that is not there any more. */
export function staleMounts({ record, mounts, ownerOf }: Sight, own: ReadonlySet<string>): Mount[] {
  const noted = numbersNoted(record).filter((number) => !own.has(number) && ownerOf(number) === undefined);
  return mounts.filter(({ majorMinor }) => noted.includes(majorMinor));
}

/** The numbers that the volume's device is known to have had. */
export function numbersNoted(record: StagingRecord | undefined): string[] {
  return record && !record.rebooted ? [record.majorMinor, ...(record.formerNumbers ?? [])] : [];
}

function notLive({ sessions }: Sight): Problem[] {
  return sessions.filter(({ live }) => !live).map(({ nqn, controllers }) => {
    const states = controllers.map(({ name, state }) => `${name} ${state}`).join(", ") || "no controller";
    return {
      kind: "session_not_live",
      message:
        `the NVMe session of ${nqn} is not live (${states}): I/O waits until the server answers; look at the network`,
    };
  });
}

/** What is noted and nothing of which is here is no more than a note. After a reboot the kubelet stages what it needs. */
function gone({ sessions, record, nodes, hasStagingFolder }: Sight, stale: readonly Mount[]): Problem[] {
  if (!record || record.unstaging || record.rebooted || sessions.length > 0) return [];
  if (stale.length === 0 && nodes.length === 0 && !hasStagingFolder) return [];
  return [{
    kind: "session_gone",
    message:
      `the kernel has given up the NVMe session of ${record.nqn}: I/O fails. It is connected again while Kubernetes ` +
      "has the volume attached here; look at the network to the server, and whether it exports the volume",
  }];
}

function staleMount({ sessions }: Sight, stale: readonly Mount[]): Problem[] {
  const [first] = stale;
  if (!first) return [];
  const paths = stale.map(({ target }) => target);
  const now = sessions.flatMap(({ namespaces }) => namespaces.map(({ majorMinor }) => majorMinor));
  return [{
    kind: "stale_mount",
    paths,
    message: `${listed(paths)}: mounted from device ${first.majorMinor}, which is gone (the volume's device now: ` +
      `${now.join(", ") || "none"}). Whoever uses it gets errors: restart the pods that do`,
  }];
}

function staleNodes({ sessions, nodes, ownerOf }: Sight, own: ReadonlySet<string>): Problem[] {
  if (sessions.length === 0) return []; // Which number is the right one is not known, and its absence is told.
  const wrong = nodes.filter(({ majorMinor }) => !own.has(majorMinor));
  if (wrong.length === 0) return [];
  const whose = wrong.flatMap(({ majorMinor }) => ownerOf(majorMinor) ?? []);
  const danger = whose.length > 0 ? `. THE NUMBER IS NOW THAT OF ${whose.join(", ")}: end the pod at once` : "";
  return [{
    kind: "stale_node",
    paths: wrong.map(({ path }) => path),
    message: `${
      listed(wrong.map(({ path, majorMinor }) => `${path} (${majorMinor})`))
    }: a device node of a number that the ` +
      `volume's device had before it came back (now ${[...own].join(", ") || "none"}): restart the pod${danger}`,
  }];
}

/** Only where the driver itself has unmounted it, to mount it anew. */
function notMounted({ record, sessions, mounts }: Sight): Problem[] {
  const path = record?.remounting;
  if (path === undefined || sessions.length === 0 || mounts.some(({ target }) => target === path)) return [];
  return [{
    kind: "not_mounted",
    paths: [path],
    message:
      `${path} was unmounted because its device was gone, and is not mounted anew yet: it is tried again; the events ` +
      "of the claim say why it failed",
  }];
}

/** Whether the kernel has stopped the filesystem of a mount that was to be written to. */
export function isStopped({ options, superOptions }: Mount): boolean {
  return !options.includes("ro") && superOptions.some((option) => stopped.includes(option));
}

function stoppedFilesystem({ mounts }: Sight, own: ReadonlySet<string>): Problem[] {
  const paths = mounts.filter((mount) => own.has(mount.majorMinor) && isStopped(mount)).map(({ target }) => target);
  if (paths.length === 0) return [];
  return [{
    kind: "filesystem_stopped",
    paths,
    message:
      `${listed(paths)}: the kernel lets nothing be written to the filesystem after errors: look at dmesg, then ` +
      "restart the pods",
  }];
}

function listed(paths: readonly string[]): string {
  return paths.length > 3 ? `${paths.slice(0, 3).join(", ")} and ${paths.length - 3} more` : paths.join(", ");
}

/** What a look at the host shows of its volumes. Reads sysfs and mountinfo, and what is noted; touches no device. */
export async function look(parts: StagingParts, options: Cancellable = {}): Promise<Look> {
  const sessions = await parts.sysfs.managed(parts.prefix, options);
  const mounts = await parts.mounts.all(options);
  const ids = new Set([...sessions.map(({ volumeId }) => volumeId), ...await parts.records.volumeIds()]);
  const owners = new Map(
    sessions.flatMap(({ nqn, namespaces }) => namespaces.flatMap(numbersOf).map((number) => [number, nqn] as const)),
  );
  const sights = new Map<string, Sight>();
  for (const volumeId of ids) {
    const record = await parts.records.read(volumeId).catch(() => undefined); // Whoever needs it says why it cannot be read.
    const own = sessions.filter((session) => session.volumeId === volumeId);
    sights.set(volumeId, await sightOf(parts, { sessions: own, record, mounts, owners }, options));
  }
  return { sessions, sights };
}

/** A look at all volumes of this node. */
export interface Look {
  sessions: readonly ManagedSession[];
  /** By volume id. */
  sights: ReadonlyMap<string, Sight>;
}

/**
 * Adds to what was read what is seen of one volume beside it.
 * @param options.seen.owners NQNs by the numbers of their devices, as far as they are known already
 */
export async function sightOf(
  parts: StagingParts,
  seen: Pick<Sight, "sessions" | "record" | "mounts"> & { owners?: ReadonlyMap<string, string> },
  options: Cancellable = {},
): Promise<Sight> {
  const { sessions, record, mounts } = seen;
  const nodes: { path: string; majorMinor: string }[] = [];
  for (const path of record?.rebooted ? [] : record?.targets ?? []) {
    const majorMinor = await deviceNodeAt(path);
    if (majorMinor !== undefined) nodes.push({ path, majorMinor });
  }
  const own = new Set(sessions.map(({ nqn }) => nqn));
  const numbers = [...numbersNoted(record), ...nodes.map(({ majorMinor }) => majorMinor)];
  // A number that none of ours has may be a foreign disk's by now.
  const others = numbers.filter((number) => !seen.owners?.has(number));
  const owners = new Map([...seen.owners ?? [], ...await parts.sysfs.ownersOf(others, options)]);
  const hasStagingFolder = record?.kind === "block" && await infoOf(record.stagingPath) !== undefined;
  const ownerOf = (number: string) => {
    const nqn = owners.get(number);
    return nqn === undefined || own.has(nqn) ? undefined : nqn;
  };
  return { sessions, record, mounts, nodes, hasStagingFolder, ownerOf };
}
