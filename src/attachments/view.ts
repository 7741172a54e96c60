import type { Kube } from "../kube/client.ts";
import { attachmentPath, type PvObject, pvPath, type VolumeAttachmentObject } from "../kube/objects.ts";
import { Watched } from "../kube/watched.ts";
import { abortable, Deadline } from "../runtime/deadline.ts";
import { NotFound, Unreachable } from "../runtime/errors.ts";
import type { Attachment } from "./decide.ts";
import { attachmentOf, type Pv, pvOf, type VolumeAttachment } from "./objects.ts";

/** An attachment as it is known. */
export interface Seen extends Attachment, VolumeAttachment {}

/** Settings of {@linkcode View}. */
export interface ViewOptions {
  kube: Pick<Kube, "list" | "watch" | "get">;
  /** The driver's name: the attacher of its attachments. */
  driver: string;
  /** One key for all the ids that one volume may have. */
  keyOf: (volumeId: string) => string;
  /** Milliseconds of a clock that only goes on. */
  now: () => number;
}

/** Milliseconds that a watch may be without a sign of life before nothing is granted on its word. */
export const LONGEST_BEHIND = 90_000;

/**
 * Who has what and who asks for what, as the API server's log has shown it so far: VolumeAttachments are the only source,
 * PVs say which volume is meant and how many nodes may have it.
 */
export class View {
  readonly #options: ViewOptions;
  readonly #attachments: Watched<VolumeAttachment>;
  readonly #pvs: Watched<Pv>;
  readonly #firstSeen = new Map<string, number>();
  /** Names of attachments by volume, by PV, and the key that each one is filed under. */
  readonly #byKey = new Map<string, Set<string>>();
  readonly #byPv = new Map<string, Set<string>>();
  readonly #keys = new Map<string, string>();
  readonly #pvsByKey = new Map<string, Set<string>>();
  /** PVs that an attachment names and the watch of PVs has not shown (yet). */
  readonly #unknown = new Set<string>();
  readonly #looked = new Map<string, Pv>();
  readonly #lookups = new Map<string, Promise<void>>();
  readonly #listeners = new Set<(key: string) => void>();
  #started = false;
  /** The list that is under way, and the one after it. */
  #listing: Promise<unknown> = Promise.resolve();
  #next: Promise<VolumeAttachment[]> | undefined;

  constructor(options: ViewOptions) {
    this.#options = options;
    const { kube, driver, now } = options;
    this.#attachments = new Watched({
      kube,
      path: attachmentPath(),
      keep: (object) => attachmentOf(object, driver),
      changed: (name, after, before) => this.#onAttachment(name, after, before),
      now,
    });
    this.#pvs = new Watched({
      kube,
      path: pvPath(),
      keep: (object) => pvOf(object, driver),
      changed: (name, after, before) => this.#onPv(name, after, before),
      now,
    });
  }

  /**
   * Lists everything, in bulk, and goes on watching until `signal` aborts. PVs are listed after the attachments: one that
   * an attachment names and that is not among them is gone.
   * @param first limits the time for the lists
   */
  async start(signal: AbortSignal, first: AbortSignal): Promise<void> {
    await this.#attachments.start(signal, first);
    this.#started = true;
    await this.#pvs.start(signal, first);
  }

  /** Settles when nothing is watched any more. */
  async ended(): Promise<void> {
    await Promise.all([this.#attachments.ended, this.#pvs.ended]);
  }

  /** Milliseconds since the API server's last sign of life. */
  get age(): number {
    return Math.max(this.#attachments.age, this.#pvs.age);
  }

  /** @throws {Unreachable} when the watches are so far behind that nothing may be decided on their word */
  assertFresh(): void {
    if (this.age <= LONGEST_BEHIND) return;
    const seconds = Math.round(this.age / 1000);
    throw new Unreachable(
      `Kubernetes has given no sign for ${seconds} s, so nobody knows who has the volume: nothing is attached nor released ` +
        "until it is back; try again",
    );
  }

  /** The keys of all volumes that have attachments. */
  keys(): Iterable<string> {
    return this.#byKey.keys();
  }

  /** All attachments of a volume, the oldest first. Never null. */
  of(volumeId: string): readonly Seen[] {
    const names = this.#byKey.get(this.#options.keyOf(volumeId)) ?? [];
    return this.#inOrder([...names].flatMap((name) => this.#attachments.objects.get(name) ?? []));
  }

  /**
   * All attachments of a volume as they are at this moment, from a quorum, in bulk: dear, and needed only where a watch
   * that is a little behind would do harm. Those who ask while a list is under way share the next one.
   */
  async current(volumeId: string, signal: AbortSignal): Promise<readonly Seen[]> {
    await this.resolve(signal);
    const key = this.#options.keyOf(volumeId);
    const all = await abortable(this.#next ??= this.#listAnew(), signal);
    return this.#inOrder(all.filter((attachment) => this.#keyOf(attachment) === key));
  }

  async #listAnew(): Promise<VolumeAttachment[]> {
    await this.#listing.catch(() => {});
    this.#next = undefined;
    const all: VolumeAttachment[] = [];
    const { kube, driver } = this.#options;
    await (this.#listing = kube.list<VolumeAttachmentObject>(attachmentPath(), (object) => {
      const attachment = readable(object, driver);
      if (attachment) all.push(attachment);
    }));
    return all;
  }

  #inOrder(attachments: readonly VolumeAttachment[]): Seen[] {
    const { now } = this.#options;
    const seen = attachments.map((each) => ({ ...each, seen: this.#firstSeen.get(each.uid) ?? now() }));
    // Creation times are whole seconds: within one, who was seen first was first.
    return seen.sort((a, b) => a.created - b.created || a.seen - b.seen || (a.uid < b.uid ? -1 : 1));
  }

  /** The PV of a volume, if there is one. */
  pv(volumeId: string): Pv | undefined {
    const [name] = this.#pvsByKey.get(this.#options.keyOf(volumeId)) ?? [];
    return name === undefined ? undefined : this.#pv(name);
  }

  /** The PVs of the driver. */
  pvs(): Iterable<Pv> {
    return this.#pvs.objects.values();
  }

  /** How many attachments are known. */
  count(): { attached: number; claims: number } {
    let attached = 0;
    for (const each of this.#attachments.objects.values()) if (each.attached) attached++;
    return { attached, claims: this.#attachments.objects.size - attached };
  }

  /** Calls `listener` with the key of each volume of which anything changes. @returns what ends it */
  onChange(listener: (key: string) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Waits at most `milliseconds` for something to be so, looking again at every change. @returns whether it is */
  async until(is: () => boolean, milliseconds: number, signal: AbortSignal): Promise<boolean> {
    using deadline = new Deadline(milliseconds, "the watch", signal);
    const { promise, resolve } = Promise.withResolvers<void>();
    const end = this.onChange(() => is() && resolve());
    try {
      if (!is()) await abortable(promise, deadline.signal);
      return true;
    } catch (error) {
      if (signal.aborted) throw error;
      return is();
    } finally {
      end();
    }
  }

  /** Looks up the PVs that attachments name and the watch has not shown, so that none is taken for missing too early. */
  async resolve(signal: AbortSignal): Promise<void> {
    const lookups = [...this.#unknown].map((name) => {
      const lookup = this.#lookups.get(name) ?? this.#lookUp(name).finally(() => this.#lookups.delete(name));
      this.#lookups.set(name, lookup);
      return lookup;
    });
    await abortable(Promise.all(lookups), signal);
  }

  async #lookUp(name: string): Promise<void> {
    const pv = await this.#options.kube.get<PvObject>(pvPath(name)).catch((error) => {
      if (error instanceof NotFound) return undefined;
      throw error;
    });
    const kept = pv && pvOf(pv, this.#options.driver);
    if (!this.#unknown.delete(name)) return;
    if (kept) this.#looked.set(name, kept);
    this.#refile(name);
  }

  #pv(name: string): Pv | undefined {
    return this.#pvs.objects.get(name) ?? this.#looked.get(name);
  }

  #onAttachment(name: string, after: VolumeAttachment | undefined, before: VolumeAttachment | undefined): void {
    if (before && before.uid !== after?.uid) this.#firstSeen.delete(before.uid);
    if (after && !this.#firstSeen.has(after.uid)) this.#firstSeen.set(after.uid, this.#options.now());
    if (before && before.pv !== after?.pv) remove(this.#byPv, before.pv, name);
    if (after) {
      add(this.#byPv, after.pv, name);
      if (this.#started && !this.#pv(after.pv)) this.#unknown.add(after.pv);
    }
    this.#file(name, after);
  }

  #onPv(name: string, after: Pv | undefined, before: Pv | undefined): void {
    this.#unknown.delete(name);
    const looked = this.#looked.get(name);
    this.#looked.delete(name);
    for (const old of [before, looked]) if (old) remove(this.#pvsByKey, this.#options.keyOf(old.handle), name);
    if (after) add(this.#pvsByKey, this.#options.keyOf(after.handle), name);
    this.#refile(name);
  }

  #refile(pv: string): void {
    const looked = this.#looked.get(pv);
    if (looked) add(this.#pvsByKey, this.#options.keyOf(looked.handle), pv);
    for (const name of [...this.#byPv.get(pv) ?? []]) this.#file(name, this.#attachments.objects.get(name));
  }

  /** Of which volume it is: as its PV says, else its publish context, else the PV's name. */
  #keyOf({ pv, volumeId }: VolumeAttachment): string {
    return this.#options.keyOf(this.#pv(pv)?.handle ?? volumeId ?? pv);
  }

  /** Files an attachment under its volume. */
  #file(name: string, attachment: VolumeAttachment | undefined): void {
    const before = this.#keys.get(name);
    const key = attachment && this.#keyOf(attachment);
    if (before !== undefined && before !== key) remove(this.#byKey, before, name);
    if (key === undefined) this.#keys.delete(name);
    else {
      this.#keys.set(name, key);
      add(this.#byKey, key, name);
    }
    for (const changed of new Set([before, key])) {
      if (changed !== undefined) { for (const listener of [...this.#listeners]) listener(changed); }
    }
  }
}

function add(index: Map<string, Set<string>>, key: string, name: string): void {
  const names = index.get(key);
  if (names) names.add(name);
  else index.set(key, new Set([name]));
}

function remove(index: Map<string, Set<string>>, key: string, name: string): void {
  const names = index.get(key);
  names?.delete(name);
  if (names?.size === 0) index.delete(key);
}

/** One that cannot be read is left out, as by the watch, which has said so. */
function readable(object: VolumeAttachmentObject, driver: string): VolumeAttachment | undefined {
  try {
    return attachmentOf(object, driver);
  } catch {
    return undefined;
  }
}
