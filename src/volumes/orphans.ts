import { throwIfAborted } from "../runtime/deadline.ts";
import { Unreachable } from "../runtime/errors.ts";
import { log } from "../runtime/log.ts";
import { claimOf, clusterOf } from "./comment.ts";
import { keyOf } from "./id.ts";
import type { StrayFile } from "./strays.ts";
import type { Volume, Volumes } from "./volumes.ts";

/** A disk, or a file without a disk, that no PersistentVolume names. */
export interface Orphan {
  kind: "disk" | "file";
  /** The volume's id; of a file: that of the volume that it would be. */
  id: string;
  /** On RouterOS, without leading slash. */
  file: string;
  /** Bytes; undefined where RouterOS shows none. */
  size: bigint | undefined;
  /** The cluster that made the disk, where it says so. */
  clusterId: string | undefined;
  /** `namespace/name` of the claim that it was made for, where it says so. */
  claim: string | undefined;
}

/** Settings of {@linkcode Orphans}. */
export interface OrphansOptions {
  volumes: Pick<Volumes, "inventory" | "get" | "delete">;
  /** Volume handles of all PVs of this driver, from the API server now, never from a cache. Rejects when not known. */
  handles: (signal: AbortSignal) => Promise<ReadonlySet<string>>;
  /** Whether any attachment, granted or only asked for, names the volume. */
  inUse: (volumeId: string) => boolean;
  /** This cluster's, as new disks get it. Without one nothing is ever deleted. */
  clusterId: string | undefined;
  /** `report` tells only; `delete` also deletes disks that this cluster made, when they were told of a grace ago. */
  action: "report" | "delete";
  /** Least milliseconds from the first sighting to the report. */
  grace: number;
  /** Milliseconds of a clock that goes on. */
  now: () => number;
  /** Tells people; called until it resolves, once for each orphan as long as it is one. */
  told: (orphan: Orphan) => void | Promise<void>;
  /** Tells people that it was deleted. */
  cleaned: (orphan: Orphan) => void;
  metrics: OrphanMetrics;
}

/** Gauges and counters, as prom-client has them. */
export interface OrphanMetrics {
  /** Orphans that were reported and are still there. Never set before the first look that succeeded. */
  orphans: { set(labels: { kind: Orphan["kind"] }, value: number): void };
  orphansCleaned: { inc(): void };
}

/** What of RouterOS is looked at. */
type Seen = Awaited<ReturnType<Volumes["inventory"]>>;

/** What was seen at two looks at least can be told. */
interface Sighting {
  orphan: Orphan;
  /** Milliseconds of the first look. */
  first: number;
  looks: number;
  isTold: boolean;
  /** Milliseconds when it was told. */
  toldAt: number;
}

/**
 * Finds volumes on RouterOS that no PersistentVolume names. Whatever is not known condemns nothing: a look that fails, or
 * an API server that shows no PV at all, changes nothing.
 */
export class Orphans {
  readonly #options: OrphansOptions;
  #sightings = new Map<string, Sighting>();
  /** Those whose deletion was begun and not proven to be whole, by volume id. */
  readonly #begun = new Map<string, Orphan>();
  #warned = false;

  constructor(options: OrphansOptions) {
    this.#options = options;
  }

  /** One look. @throws only when `signal` aborts */
  async check(signal: AbortSignal): Promise<void> {
    const found = await this.#look(signal);
    if (!found) return;
    this.#sightings = seenAgain(this.#sightings, found, this.#options.now());
    if (this.#options.action === "delete") await this.#clean(signal);
    for (const sighting of this.#sightings.values()) await this.#tell(sighting, signal);
    for (const kind of ["disk", "file"] as const) {
      this.#options.metrics.orphans.set({ kind }, this.#told().filter((orphan) => orphan.kind === kind).length);
    }
  }

  #told(): Orphan[] {
    return [...this.#sightings.values()].filter(({ isTold }) => isTold).map(({ orphan }) => orphan);
  }

  /** The PVs are read after RouterOS: a volume that was there in between has its PV by then, or comes to it in the grace. */
  async #look(signal: AbortSignal): Promise<Orphan[] | undefined> {
    try {
      const seen = await this.#options.volumes.inventory(signal);
      const isEmpty = seen.volumes.length + seen.strays.length === 0;
      const found = isEmpty ? [] : candidatesIn(seen, { ...this.#options, handles: await this.#handles(signal) });
      this.#warned = false;
      return found;
    } catch (error) {
      throwIfAborted(signal);
      if (!this.#warned) log.warn("volumes without a PersistentVolume cannot be looked for now", { error });
      this.#warned = true;
      return undefined;
    }
  }

  async #handles(signal: AbortSignal): Promise<ReadonlySet<string>> {
    const handles = await this.#options.handles(signal);
    if (handles.size > 0) return handles;
    throw new Unreachable(
      "the API server shows no PersistentVolume of this driver, which is no proof that nobody needs what RouterOS has: " +
        "look at 'kubectl get pv', and remove on RouterOS by hand what is not needed",
    );
  }

  async #tell(sighting: Sighting, signal: AbortSignal): Promise<void> {
    const { grace, now, told } = this.#options;
    const { orphan, first, looks } = sighting;
    if (sighting.isTold || looks < 2 || now() - first < grace) return;
    try {
      await told(orphan);
      log.warn(sentenceOf(orphan), { volumeId: orphan.id, size: orphan.size, claim: orphan.claim });
      sighting.isTold = true;
      sighting.toldAt = now();
    } catch (error) {
      throwIfAborted(signal);
      log.warn("an orphaned volume could not be told of; it is tried again", { volumeId: orphan.id, error });
    }
  }

  async #clean(signal: AbortSignal): Promise<void> {
    const { grace, now } = this.#options;
    // People have as long to object as it took to tell them.
    const ripe = [...this.#sightings.values()].filter(({ toldAt, isTold }) => isTold && now() - toldAt >= grace);
    const own = ripe.map(({ orphan }) => orphan).filter((orphan) => this.#isOwn(orphan));
    const due = new Map([...own, ...this.#begun.values()].map((orphan) => [orphan.id, orphan]));
    for (const [id, orphan] of due) {
      try {
        if (await this.#delete(orphan, signal)) this.#forget(id);
        this.#begun.delete(id);
      } catch (error) {
        throwIfAborted(signal);
        log.warn("an orphaned volume was not deleted; it is tried again", { volumeId: id, error });
      }
    }
  }

  #isOwn({ kind, clusterId }: Orphan): boolean {
    return kind === "disk" && clusterId !== undefined && clusterId === this.#options.clusterId;
  }

  /** Asks all anew, in use last of all, right before it is deleted. @returns false where it is no orphan any more */
  async #delete(known: Orphan, signal: AbortSignal): Promise<boolean> {
    const { volumes, metrics } = this.#options;
    const { id, size, claim } = known;
    const volume = await volumes.get(id, signal);
    const handles = await this.#handles(signal);
    // Of one whose row went in an earlier try of this process only the file may be left.
    const strays = volume || !this.#begun.has(id) ? [] : [known];
    const [orphan] = candidatesIn({ volumes: volume ? [volume] : [], strays }, { ...this.#options, handles });
    if (!orphan || (volume && !this.#isOwn(orphan))) return false;
    this.#begun.set(id, known);
    await volumes.delete(id, signal);
    metrics.orphansCleaned.inc();
    this.#options.cleaned(known);
    log.warn("deleted a volume of this cluster that no PersistentVolume names", { volumeId: id, size, claim });
    return true;
  }

  #forget(id: string): void {
    for (const [key, { orphan }] of this.#sightings) if (orphan.id === id) this.#sightings.delete(key);
  }
}

/** What an administrator should do about it. */
export function sentenceOf({ kind, id, file, claim }: Orphan): string {
  const madeFor = claim ? `, made for the claim ${claim},` : "";
  const remove = `'/file/remove [find where name="${file}"]'`;
  if (kind === "file") {
    return `the file /${file} on RouterOS belongs to no disk and to no PersistentVolume: if nobody needs it, run ${remove}`;
  }
  const disk = `[find where slot="${id}"]`;
  return `the volume ${id} on RouterOS${madeFor} belongs to no PersistentVolume: make one with this volumeHandle to use it ` +
    `again, or if nobody needs it, run '/disk/set ${disk} nvme-tcp-export=no', '/disk/remove ${disk}' and ${remove}`;
}

/**
 * What may be orphaned: no PV names it in either form of its id, nobody uses it, and no other cluster made it. Pure.
 * Snapshots and whatever else is not ours are not in `seen` to begin with.
 */
export function candidatesIn(
  { volumes, strays }: Seen,
  known: { handles: ReadonlySet<string>; inUse: (volumeId: string) => boolean; clusterId: string | undefined },
): Orphan[] {
  const named = new Set([...known.handles].map(keyOf));
  const isFree = ({ id }: { id: string }) => !named.has(keyOf(id)) && ![id, keyOf(id)].some(known.inUse);
  const isOthers = ({ clusterId }: Orphan) => clusterId !== undefined && clusterId !== known.clusterId;
  return [
    ...volumes.filter(isFree).map(diskOrphan).filter((orphan) => !isOthers(orphan)),
    ...strays.filter(isFree).map(fileOrphan),
  ];
}

function diskOrphan({ id, file, size, comment }: Volume): Orphan {
  return { kind: "disk", id, file, size, clusterId: clusterOf(comment), claim: claimOf(comment) };
}

function fileOrphan(stray: StrayFile): Orphan {
  return { kind: "file", ...stray, clusterId: undefined, claim: undefined };
}

/** The sightings after one more look; what it did not show is forgotten. */
function seenAgain(
  before: ReadonlyMap<string, Sighting>,
  found: readonly Orphan[],
  now: number,
): Map<string, Sighting> {
  return new Map(found.map((orphan) => {
    const key = `${orphan.kind} ${orphan.file}`;
    const known = before.get(key) ?? { first: now, looks: 0, isTold: false, toldAt: Infinity };
    return [key, { ...known, orphan, looks: known.looks + 1 }];
  }));
}
