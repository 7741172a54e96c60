import type { Reason } from "../kube/reasons.ts";
import { abortable, Deadline, pause } from "../runtime/deadline.ts";
import { messageOf } from "../runtime/errors.ts";
import { log } from "../runtime/log.ts";
import type { NodeMetrics } from "../runtime/node_metrics.ts";
import { Cleaning } from "./cleaning.ts";
import { type Look, look, type Problem, type ProblemKind, problemsOf, type Sight } from "./condition.ts";
import { Mending, type MendingOptions } from "./mending.ts";
import type { StagingParts } from "./parts.ts";

export interface WatchOptions extends MendingOptions {
  metrics: Pick<
    NodeMetrics,
    "sessions" | "connectionsActive" | "abnormalVolumes" | "staleDetected" | "staleRecoveries"
  >;
}

/**
 * The event that a problem is told as. A filesystem that the kernel has stopped is no stale mount: its device is the right
 * one, and restarting the pod alone mends nothing.
 */
const told: Record<ProblemKind, Reason> = {
  session_not_live: "ConnectionFailure",
  session_gone: "ConnectionFailure",
  stale_mount: "StaleMountDetected",
  stale_node: "StaleMountDetected",
  not_mounted: "MountFailure",
  filesystem_stopped: "MountFailure",
};
const mendable: ReadonlySet<ProblemKind> = new Set(["session_gone", "stale_mount", "stale_node", "not_mounted"]);

/** Looks in a row that must show a problem: what is being staged or unstaged looks broken for a moment. */
const looksUntilTold = 2;

interface Seen {
  problem: Problem;
  since: number;
  looks: number;
}

/**
 * Sees what breaks under the volumes of this node, from sysfs and mountinfo alone, tells it once, and has it mended where
 * no pod is in the way.
 */
export class Watcher {
  readonly #parts: StagingParts;
  readonly #options: WatchOptions;
  readonly #cleaning: Cleaning;
  readonly #seen = new Map<string, Map<ProblemKind, Seen>>();
  readonly #mending: Mending;
  #cleaningNow: Promise<void> | undefined;
  #blind: string | undefined;

  constructor(parts: StagingParts, options: WatchOptions) {
    this.#parts = parts;
    this.#options = options;
    this.#cleaning = new Cleaning(parts, options);
    this.#mending = new Mending(parts, { ...options, connected: (nqn) => this.#cleaning.judgeAlso(nqn) });
  }

  /**
   * One look at everything. What cannot be read changes nothing.
   * @param now milliseconds, of a clock that only goes forward
   */
  async look(now: number): Promise<void> {
    const { signal } = this.#options;
    const seen = await look(this.#parts, { signal }).catch((error) => this.#cannotSee(error));
    if (!seen) return;
    this.#blind = undefined;
    const problems = new Map([...seen.sights].map(([id, sight]) => [id, problemsOf(sight)]));
    for (const [volumeId, sight] of seen.sights) this.#judge({ volumeId, sight, now }, problems.get(volumeId) ?? []);
    for (const volumeId of this.#seen.keys()) if (!seen.sights.has(volumeId)) this.#seen.delete(volumeId);
    this.#gauge(seen, problems);
    this.#mending.begin(this.#mendable(), now);
    // It may take its time; the next look does not wait for it.
    this.#cleaningNow ??= this.#cleaning.look(seen, now).finally(() => this.#cleaningNow = undefined);
  }

  /** Waits until what is being mended and cleaned now has come to its end. */
  async settled(): Promise<void> {
    await Promise.all([this.#cleaningNow, this.#mending.settled()]);
  }

  #cannotSee(error: unknown): undefined {
    const what = messageOf(error);
    if (!this.#options.signal?.aborted && what !== this.#blind) {
      log.error("the volumes of this node cannot be watched", { error });
    }
    this.#blind = what;
  }

  #judge({ volumeId, sight, now }: { volumeId: string; sight: Sight; now: number }, problems: Problem[]): void {
    const before = this.#seen.get(volumeId) ?? new Map<ProblemKind, Seen>();
    const after = new Map<ProblemKind, Seen>();
    for (const problem of problems) {
      if (after.has(problem.kind)) continue;
      const { since, looks } = before.get(problem.kind) ?? { since: now, looks: 0 };
      after.set(problem.kind, { problem, since, looks: looks + 1 });
      if (looks + 1 === looksUntilTold) this.#begins({ volumeId, sight }, problem);
    }
    for (const [kind, { since, looks }] of before) {
      if (!after.has(kind) && looks >= looksUntilTold) this.#ends({ volumeId, sight }, kind, now - since);
    }
    if (after.size > 0) this.#seen.set(volumeId, after);
    else this.#seen.delete(volumeId);
  }

  #begins({ volumeId, sight }: { volumeId: string; sight: Sight }, { kind, message }: Problem): void {
    log.warn("a volume is not well", { volumeId, problem: kind, message });
    if (kind === "stale_mount" || kind === "stale_node") this.#options.metrics.staleDetected.inc();
    this.#tell(volumeId, sight, told[kind], message);
  }

  #ends({ volumeId, sight }: { volumeId: string; sight: Sight }, kind: ProblemKind, milliseconds: number): void {
    const seconds = Math.round(milliseconds / 1000);
    log.info("a volume's problem has passed", { volumeId, problem: kind, seconds });
    const session = sight.sessions.find(({ live }) => live);
    if (!session || told[kind] !== "ConnectionFailure") return; // Ended, and not mended.
    this.#tell(
      volumeId,
      sight,
      "ConnectionRecovery",
      `the NVMe session of ${session.nqn} is live again after ${seconds} s`,
    );
  }

  #tell(volumeId: string, sight: Sight | undefined, reason: Reason, message: string): void {
    this.#parts.cluster?.tell({ volumeId, pv: sight?.record?.pv }, reason, message);
  }

  /** All at once, so that no scrape sees the half. What is gone has no value any more. */
  #gauge({ sessions }: Look, problems: ReadonlyMap<string, Problem[]>): void {
    const { metrics } = this.#options;
    const kinds = [...problems.values()].flatMap((each) => [...new Set(each.map(({ kind }) => kind))]);
    const states = sessions.flatMap(({ controllers }) =>
      controllers.length > 0 ? controllers.map(({ state }) => state) : ["none"]
    );
    metrics.abnormalVolumes.reset();
    metrics.sessions.reset();
    for (const reason of kinds) metrics.abnormalVolumes.inc({ reason });
    for (const state of states) metrics.sessions.inc({ state });
    if (this.#cleaning.strangers > 0) metrics.abnormalVolumes.set({ reason: "not_attached" }, this.#cleaning.strangers);
    metrics.connectionsActive.set(sessions.filter(({ live }) => live).length);
  }

  #mendable(): string[] {
    const isMendable = ({ problem, looks }: Seen) => looks >= looksUntilTold && mendable.has(problem.kind);
    return [...this.#seen].filter(([, seen]) => [...seen.values()].some(isMendable)).map(([volumeId]) => volumeId);
  }
}

/** Milliseconds that what was begun may take to end. */
const lastPatience = 5000;

/**
 * Looks again and again, until it is closed. Whatever then does not end by itself is left behind.
 * @param options.interval milliseconds between two looks
 * @param options.patience milliseconds until what was begun is left behind
 */
export function startWatching(
  parts: StagingParts,
  options: Omit<WatchOptions, "signal"> & { interval: number; patience?: number },
): { close(): Promise<void> } {
  const stop = new AbortController();
  const { signal } = stop;
  const watcher = new Watcher(parts, { ...options, signal });
  const working = watch(watcher, { interval: options.interval, signal });
  return {
    async close() {
      stop.abort();
      using deadline = new Deadline(options.patience ?? lastPatience, "the mending and cleaning under way");
      await abortable(working.then(() => watcher.settled()), deadline.signal)
        .catch((error) => log.warn("the watcher ends before what it began", { error }));
    },
  };
}

async function watch(watcher: Watcher, { interval, signal }: { interval: number; signal: AbortSignal }): Promise<void> {
  while (!signal.aborted) {
    try {
      await abortable(watcher.look(performance.now()), signal);
    } catch (error) {
      if (!signal.aborted) log.error("a look at the volumes of this node failed", { error });
    }
    await pause(interval, signal).catch(() => {});
  }
}
