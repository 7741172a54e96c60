import type { Reason } from "../kube/reasons.ts";
import { Busy, Cancelled, InUse, messageOf } from "../runtime/errors.ts";
import { log } from "../runtime/log.ts";
import type { NodeMetrics } from "../runtime/node_metrics.ts";
import type { StagingParts } from "./parts.ts";
import { mend } from "./recovery.ts";

/** Runs work while no CSI call of the volume is under way; throws {@linkcode Busy} while one is. */
export type Guard = <T>(volumeId: string, what: string, work: () => Promise<T>) => Promise<T>;

export interface MendingOptions {
  guard: Guard;
  metrics: Pick<NodeMetrics, "staleRecoveries">;
  /** Is told the NQN of a session that was connected again. */
  connected?: (nqn: string) => void;
  signal?: AbortSignal | undefined;
}

interface Attempts {
  running?: Promise<void>;
  failures: number;
  /** Of the watcher's clock, milliseconds. */
  notBefore: number;
  /** The kind of the failure that was told. */
  told?: string;
}

/** Milliseconds after the first failure; twice as long after each further one. */
const firstPause = 15_000;
const longestPause = 300_000;
/** Milliseconds until what could not be mended without harm is looked at again. */
const pauseAfterNothing = 60_000;

/** Has volumes mended behind the watcher's back, one attempt a volume at a time, and tells what came of it. */
export class Mending {
  readonly #parts: StagingParts;
  readonly #options: MendingOptions;
  readonly #attempts = new Map<string, Attempts>();

  constructor(parts: StagingParts, options: MendingOptions) {
    this.#parts = parts;
    this.#options = options;
  }

  /** Begins with each of these volumes unless it is too early, and forgets all others. */
  begin(volumeIds: readonly string[], now: number): void {
    for (const [volumeId, { running }] of this.#attempts) {
      if (!running && !volumeIds.includes(volumeId)) this.#attempts.delete(volumeId);
    }
    for (const volumeId of volumeIds) {
      const attempts = this.#attempts.get(volumeId) ?? { failures: 0, notBefore: now };
      this.#attempts.set(volumeId, attempts);
      if (attempts.running || now < attempts.notBefore) continue;
      attempts.running = this.#mend(volumeId, attempts, now).finally(() => delete attempts.running);
    }
  }

  /** Waits until what runs has come to its end. */
  async settled(): Promise<void> {
    await Promise.all([...this.#attempts.values()].map(({ running }) => running));
  }

  async #mend(volumeId: string, attempts: Attempts, now: number): Promise<void> {
    const { guard, metrics, connected, signal } = this.#options;
    try {
      const done = await guard(volumeId, "recovery", () => mend(this.#parts, volumeId, { connected, signal }));
      attempts.failures = 0;
      delete attempts.told;
      if (done === undefined) {
        attempts.notBefore = now + pauseAfterNothing;
        return;
      }
      metrics.staleRecoveries.inc({ status: "success" });
      log.info("a volume is recovered", { volumeId, done });
      await this.#tell(volumeId, "VolumeRecovered", done);
    } catch (error) {
      // Pods have what is stale: that was told. Each attempt takes the guard, and a call that comes then is refused.
      if (error instanceof InUse) attempts.notBefore = now + pauseAfterNothing;
      // Somebody else works on it.
      if (error instanceof InUse || error instanceof Busy || error instanceof Cancelled || signal?.aborted) return;
      metrics.staleRecoveries.inc({ status: "failure" });
      attempts.notBefore = now + Math.min(longestPause, firstPause * 2 ** attempts.failures++);
      log.warn("a volume is not recovered: it is tried again", { volumeId, failures: attempts.failures, error });
      const kind = error instanceof Error ? error.name : "";
      if (attempts.told === kind) return;
      attempts.told = kind;
      await this.#tell(volumeId, "RecoveryFailed", messageOf(error));
    }
  }

  async #tell(volumeId: string, reason: Reason, message: string): Promise<void> {
    const record = await this.#parts.records.read(volumeId).catch(() => undefined);
    this.#parts.cluster?.tell({ volumeId, pv: record?.pv }, reason, message);
  }
}
