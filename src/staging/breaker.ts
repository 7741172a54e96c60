import { circuitBreaker, CircuitState, ConsecutiveBreaker, handleWhen } from "cockatiel";
import { RESET } from "../kube/objects.ts";
import { NotGrown } from "../nvme/session.ts";
import { Busy, Cancelled, InUse, InvalidArgument, messageOf, Unreachable } from "../runtime/errors.ts";
import { log } from "../runtime/log.ts";
import type { Cluster, Known } from "./cluster.ts";

/** Failures in a row that open a breaker. */
const THRESHOLD = 3;

/** Settings of {@linkcode Breakers}. */
export interface BreakersOptions {
  /** Milliseconds that a breaker stays open. */
  duration: number;
  /** Undefined: there is no Kubernetes, and nobody to ask for a reset. */
  cluster: Pick<Cluster, "annotation" | "tell"> | undefined;
  /** Whether the volume's session came alive in this attempt: what fails before says nothing of the volume. */
  isLive: (volumeId: string) => boolean;
  /** Is told that one opened. */
  opened?: () => void;
}

interface Breaker {
  policy: ReturnType<typeof circuitBreaker>;
  failures: number;
  last: string;
  /** When it closes by itself, as `Date.now()`, which the policy goes by too. */
  until: number;
}

interface Cancellable {
  signal?: AbortSignal | undefined;
}

/**
 * Keeps a node from trying to stage a volume again and again that cannot be staged: after three failures in a row it is
 * not tried for a while, then once; other volumes are not touched. Failures are what goes wrong with the device and what is
 * on it once its session is live, not requests that are wrong, work that is under way, or a server that cannot be reached or
 * does not show its growth yet.
 */
export class Breakers {
  readonly #options: BreakersOptions;
  readonly #breakers = new Map<string, Breaker>();
  /** Values of the annotation that were honoured, until it is seen to be gone. */
  readonly #honoured = new Map<string, string>();

  constructor(options: BreakersOptions) {
    this.#options = options;
  }

  /** How many are open now. */
  get open(): number {
    return [...this.#breakers.values()].filter(isOpen).length;
  }

  /**
   * Does `work` unless the volume's breaker is open.
   * @throws {Unreachable} when the breaker is open: how often it failed, why, until when, and how to close it
   */
  async run<T>(volume: Known, work: () => Promise<T>, options: Cancellable = {}): Promise<T> {
    const { volumeId } = volume;
    const present = this.#breakers.get(volumeId);
    if (present && isOpen(present) && !await this.#isReset(volume, options)) throw refusal(volume, present);
    const breaker = this.#breakers.get(volumeId) ?? this.#made(volume);
    const answer = await breaker.policy.execute(work).catch((error) => {
      if (breaker.failures === 0) this.forget(volumeId);
      throw error;
    });
    this.forget(volumeId);
    return answer;
  }

  /** All is well with the volume, or it is not wanted here any more. */
  forget(volumeId: string): void {
    this.#breakers.delete(volumeId);
  }

  #made(volume: Known): Breaker {
    const { duration, isLive } = this.#options;
    const breaker: Breaker = {
      policy: circuitBreaker(handleWhen((error) => isLive(volume.volumeId) && counts(error)), {
        halfOpenAfter: duration,
        breaker: new ConsecutiveBreaker(THRESHOLD),
      }),
      failures: 0,
      last: "",
      until: 0,
    };
    breaker.policy.onFailure(({ reason, handled }) => {
      if (!handled) return;
      breaker.failures++;
      breaker.last = messageOf("error" in reason ? reason.error : reason.value);
    });
    breaker.policy.onBreak(() => this.#opened(volume, breaker));
    this.#breakers.set(volume.volumeId, breaker);
    return breaker;
  }

  #opened(volume: Known, breaker: Breaker): void {
    breaker.until = Date.now() + this.#options.duration;
    const message = refusal(volume, breaker).message;
    log.warn("a circuit breaker opened", { volumeId: volume.volumeId, message });
    this.#options.opened?.();
    this.#options.cluster?.tell(volume, "CircuitBreakerOpened", message);
    // So that an annotation that is gone by now is known to be new when it comes again.
    this.#asked(volume, {}).catch(() => {});
  }

  /** Whether people ask for a new try. A value that was honoured counts again when it was away in between. */
  async #isReset(volume: Known, options: Cancellable): Promise<boolean> {
    const { volumeId } = volume;
    try {
      const value = await this.#asked(volume, options);
      if (value === undefined || value === this.#honoured.get(volumeId)) return false;
      this.#honoured.set(volumeId, value);
    } catch (error) {
      log.warn("whether a circuit breaker is to be reset cannot be asked", { volumeId, error });
      return false;
    }
    log.info("a circuit breaker is reset", { volumeId });
    this.forget(volumeId);
    return true;
  }

  async #asked(volume: Known, options: Cancellable): Promise<string | undefined> {
    const value = await this.#options.cluster?.annotation(volume, RESET, options);
    if (value !== undefined && value !== "" && value !== "false") return value;
    this.#honoured.delete(volume.volumeId);
    return undefined;
  }
}

function isOpen({ policy, until }: Breaker): boolean {
  return policy.state === CircuitState.Open && Date.now() < until;
}

function counts(error: unknown): boolean {
  return ![InvalidArgument, Cancelled, Busy, InUse, NotGrown].some((kind) => error instanceof kind);
}

function refusal({ volumeId, pv }: Known, { failures, last, until }: Breaker): Unreachable {
  return new Unreachable(
    `volume ${volumeId} is not staged until ${
      new Date(until).toISOString()
    }: it failed ${failures} times in a row, lastly ` +
      `because ${last}. When that is mended: kubectl annotate --overwrite pv ${pv ?? volumeId} ${RESET}=true`,
  );
}
