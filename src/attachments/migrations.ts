import type { Events } from "../kube/events.ts";
import { abortable, pause } from "../runtime/deadline.ts";
import { FailedPrecondition, isRetriable } from "../runtime/errors.ts";
import { log } from "../runtime/log.ts";
import type { ControllerMetrics } from "../runtime/controller_metrics.ts";
import { type Ending, endingOf, type Migration, pairOf } from "./migration.ts";
import { aboutOf, type MigrationReason } from "./tell.ts";
import type { Seen, View } from "./view.ts";

/** Settings of {@linkcode Migrations}. */
export interface MigrationsOptions {
  view: Pick<View, "of" | "pv" | "keys" | "onChange">;
  events: Pick<Events, "once">;
  metrics: Pick<ControllerMetrics, "migrations" | "migrationDuration">;
  /** Wall clock, milliseconds. */
  wall?: () => number;
}

/** Something to tell of a volume, once by all replicas together. */
interface News {
  key: string;
  reason: MigrationReason;
  message: string;
  /** Names it for ever: two replicas that tell the same tell it once. */
  id: string;
  about: ReturnType<typeof aboutOf>;
  told?: () => void;
  at: number;
}

/** Milliseconds that news are kept by a replica that does not lead: whoever leads next tells what the last one could not. */
const KEPT = 60_000;
/** Milliseconds that the API server keeps events at least, a little less: what was told before that is not told again. */
const EVENTS_LAST = 50 * 60_000;
/** The longest that a timer of the runtime can wait. */
const LONGEST_TIMER = 2 ** 31 - 1;

/**
 * Follows live migrations: tells of their start, their end, and that they take too long. It frees nothing. Every replica
 * follows; the one that leads tells.
 */
export class Migrations {
  readonly #options: MigrationsOptions;
  readonly #wall: () => number;
  readonly #running = new Map<string, Migration & { timer: ReturnType<typeof setTimeout> }>();
  readonly #granted = new Map<string, number>();
  readonly #conflicts = new Set<string>();
  readonly #crowded = new Set<string>();
  #news: News[] = [];
  #wake: () => void = () => {};
  #leads = false;
  #end: () => void = () => {};
  #settled = false;

  constructor(options: MigrationsOptions) {
    this.#options = options;
    this.#wall = options.wall ?? Date.now;
  }

  /** Takes up what is there after the rebuild, and follows from now on. */
  start(): void {
    const { view } = this.#options;
    for (const key of view.keys()) this.#look(key);
    this.#settled = true;
    this.#end = view.onChange((key) => this.#look(key));
  }

  stop(): void {
    this.#end();
    for (const { timer } of this.#running.values()) clearTimeout(timer);
  }

  /** A node was given a volume now: the migration's clock starts here, not when the watch shows it. */
  granted(uid: string): void {
    for (const [old, at] of this.#granted) if (this.#wall() - at > KEPT) this.#granted.delete(old);
    this.#granted.set(uid, this.#wall());
  }

  /** How many there are; undefined where another replica counts them. */
  get active(): number | undefined {
    return this.#leads ? this.#running.size : undefined;
  }

  /** Tells what there is to tell, until `signal` aborts. */
  async lead(signal: AbortSignal): Promise<void> {
    this.#leads = true;
    this.#news = this.#news.filter(({ at }) => this.#wall() - at < KEPT);
    for (const [key, migration] of this.#running) {
      const left = this.#left(migration);
      if (left <= 0 && left > -EVENTS_LAST) this.#late(key, migration);
    }
    try {
      while (!signal.aborted) {
        const news = this.#news[0];
        if (news) await this.#tell(news, signal);
        else await this.#more(signal);
      }
    } finally {
      this.#leads = false;
    }
  }

  async #tell(news: News, signal: AbortSignal): Promise<void> {
    try {
      const { about, reason, message, id } = news;
      const isFirst = about ? await this.#options.events.once({ about, reason, message }, id, signal) : true;
      if (isFirst) {
        news.told?.();
        log.info(message, { volumeId: news.key, reason });
      }
    } catch (error) {
      if (signal.aborted) return;
      log.warn("an event could not be posted", { volumeId: news.key, reason: news.reason, error });
      if (isRetriable(error) || error instanceof FailedPrecondition) {
        // To the end: what one namespace does not take must not keep the others' waiting.
        this.#news.push(...this.#news.splice(this.#news.indexOf(news), 1));
        return await pause(1000, signal).catch(() => {});
      }
      news.told?.();
    }
    this.#news.splice(this.#news.indexOf(news), 1);
  }

  async #more(signal: AbortSignal): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#wake = resolve;
    await abortable(promise, signal).catch(() => {});
  }

  #look(key: string): void {
    const { view } = this.#options;
    const all = view.of(key);
    const holders = all.filter(({ attached }) => attached);
    const pv = view.pv(key);
    const running = this.#running.get(key);
    const ending = running && endingOf(running, holders);
    if (running && ending) this.#ended(key, running, ending);
    if (holders.length < 2) {
      this.#conflicts.delete(key);
      this.#crowded.delete(key);
      return;
    }
    if (pv?.mode !== "multi") return this.#conflict(key, holders);
    if (holders.length > 2 && !this.#crowded.has(key)) {
      log.warn("more than two nodes have a volume", { volumeId: key, nodes: names(holders) });
    }
    this.#crowded[holders.length > 2 ? "add" : "delete"](key);
    const pair = pairOf(holders);
    if (!pair || this.#running.has(key)) return;
    const { source, target } = pair;
    const start = this.#granted.get(target.uid) ?? (this.#settled ? this.#wall() : target.created);
    this.#granted.delete(target.uid);
    this.#started(key, { source: idOf(source), target: idOf(target), start, timeout: pv.migrationTimeout });
  }

  #started(key: string, migration: Migration): void {
    const left = Math.min(LONGEST_TIMER, Math.max(0, this.#left(migration)));
    const timer = setTimeout(() => this.#late(key, migration), left);
    this.#running.set(key, { ...migration, timer });
    const way = wayOf(migration);
    this.#add(key, "MigrationStarted", `a live migration ${way} began`, migration);
  }

  #ended(key: string, migration: Migration & { timer: ReturnType<typeof setTimeout> }, ending: Ending): void {
    clearTimeout(migration.timer);
    this.#running.delete(key);
    const seconds = Math.max(0, this.#wall() - migration.start) / 1000;
    const { metrics } = this.#options;
    const told = () => {
      metrics.migrations.inc({ result: ending === "completed" ? "success" : "failure" });
      metrics.migrationDuration.observe(seconds);
    };
    const [what, reason] = ending === "completed"
      ? ["was completed: the source has let go", "MigrationCompleted" as const]
      : ["failed: the target has let go", "MigrationFailed" as const];
    this.#add(
      key,
      reason,
      `the live migration ${wayOf(migration)} ${what} after ${Math.round(seconds)} s`,
      migration,
      told,
    );
  }

  #late(key: string, migration: Migration): void {
    const message =
      `the live migration ${wayOf(migration)} takes longer than ${migration.timeout / 1000} s: look at the ` +
      "machine's migration; nothing is taken from either node";
    const told = () => this.#options.metrics.migrations.inc({ result: "timeout" });
    this.#add(key, "MigrationTimeout", message, migration, told);
  }

  #conflict(key: string, holders: readonly Seen[]): void {
    if (this.#conflicts.has(key)) return;
    this.#conflicts.add(key);
    const message =
      `${names(holders)} have the volume at once, and its access mode allows one node: end the pods on all ` +
      "of them but one now, and check the data";
    log.error("two nodes have a ReadWriteOnce volume", { volumeId: key, nodes: names(holders) });
    this.#add(key, "AttachmentConflict", message, { source: idOf(holders[0]), target: idOf(holders[1]) });
  }

  #add(
    key: string,
    reason: MigrationReason,
    message: string,
    pair: Pick<Migration, "source" | "target">,
    told?: () => void,
  ): void {
    const id = `${reason} ${pair.source.uid} ${pair.target.uid}`;
    if (this.#news.some((news) => news.id === id)) return;
    const about = aboutOf(this.#options.view, key);
    this.#news.push({ key, reason, message, id, about, at: this.#wall(), ...(told ? { told } : {}) });
    if (!this.#leads) this.#news = this.#news.filter(({ at }) => this.#wall() - at < KEPT);
    this.#wake();
  }

  #left({ start, timeout }: Migration): number {
    return start + timeout - this.#wall();
  }
}

function idOf(attachment: { uid: string; nodeId: string } | undefined): { uid: string; nodeId: string } {
  return { uid: attachment?.uid ?? "", nodeId: attachment?.nodeId ?? "" };
}

function wayOf({ source, target }: Migration): string {
  return `from ${source.nodeId} to ${target.nodeId}`;
}

function names(holders: readonly Seen[]): string {
  return holders.map(({ nodeId }) => nodeId).join(" and ");
}
