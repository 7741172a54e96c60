import { Busy } from "../runtime/errors.ts";

/** A change that was sent and not answered. */
interface Unanswered<State> {
  /** What it does, for people. */
  doing: string;
  /** Milliseconds after which it can no longer take effect: RouterOS may finish an add after its channel has gone. */
  longest: number;
  /** Whether its effect is there. */
  seen: (state: State) => boolean;
}

/** Remembers changes whose answer was lost, until their effect is seen or their longest time has passed. */
export class Settling<State> {
  readonly #now: () => number;
  readonly #unanswered = new Map<string, Unanswered<State> & { until: number }>();

  /** @param now milliseconds of a clock that goes on */
  constructor(now: () => number) {
    this.#now = now;
  }

  expect(key: string, change: Unanswered<State>): void {
    for (const [other, { until }] of this.#unanswered) if (until <= this.#now()) this.#unanswered.delete(other);
    this.#unanswered.set(key, { ...change, until: this.#now() + change.longest });
  }

  /**
   * Returns once no unanswered change of `key` can still take effect unseen; `look` reads the state.
   * @throws {Busy} while one may; whatever `look` throws
   */
  async settle(key: string, look: () => Promise<State>): Promise<void> {
    const change = this.#unanswered.get(key);
    if (!change) return;
    const over = this.#now() >= change.until;
    if (!over && !change.seen(await look())) {
      const left = Math.ceil((change.until - this.#now()) / 1000);
      throw new Busy(
        `RouterOS did not answer when told to ${change.doing}, and may still do it: nothing else is done with it until ` +
          `that is seen, at most ${left} s from now; try again`,
      );
    }
    if (this.#unanswered.get(key) === change) this.#unanswered.delete(key);
  }
}
