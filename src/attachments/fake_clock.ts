/** Time and chance that a test decides: for whole programs that wait, and that nothing real answers. */
import { setImmediate } from "node:timers";

interface Timer {
  at: number;
  work: () => void;
}

/**
 * Takes the place of `setTimeout`, `clearTimeout` and `Math.random` until it is disposed of. Time stands still between two
 * calls of {@linkcode FakeClock.advance}; it starts at 0.
 */
export class FakeClock implements Disposable {
  readonly #real = { setTimeout: globalThis.setTimeout, clearTimeout: globalThis.clearTimeout, random: Math.random };
  readonly #timers = new Map<number, Timer>();
  #made = 0;
  now = 0;

  /** @param random 0 to 1, for the length of pauses */
  constructor(random: () => number = () => 0.5) {
    const set = (work: (...args: unknown[]) => void, milliseconds = 0, ...args: unknown[]) => {
      this.#timers.set(++this.#made, { at: this.now + Math.max(0, milliseconds), work: () => work(...args) });
      return this.#made;
    };
    const clear = (timer?: number) => void this.#timers.delete(timer ?? 0);
    Object.assign(globalThis, { setTimeout: set, clearTimeout: clear });
    Math.random = random;
  }

  /** How many timers are set. */
  get waiting(): number {
    return this.#timers.size;
  }

  /** Lets everything go on that waits for no time. */
  async idle(): Promise<void> {
    await new Promise<void>((resolve) => setImmediate(resolve));
  }

  /** Lets time go on, timer by timer. */
  async advance(milliseconds: number): Promise<void> {
    const until = this.now + milliseconds;
    await this.idle();
    for (let next, fired = 0; (next = this.#next()) && next[1].at <= until; fired++) {
      if (fired > 100_000) throw new Error("timers are set again and again and time stands still");
      const [id, timer] = next;
      this.#timers.delete(id);
      this.now = Math.max(this.now, timer.at);
      timer.work();
      await this.idle();
    }
    this.now = until;
  }

  /** Lets time go on until the work is done. @throws what it throws, or when nothing is left to wait for */
  async until<T>(work: Promise<T>, longest = 3_600_000): Promise<T> {
    let done = false;
    const end = this.now + longest;
    work.catch(() => {}).finally(() => done = true);
    await this.idle();
    while (!done && this.now < end) {
      await this.advance(Math.max(1, Math.min((this.#next()?.[1].at ?? end) - this.now, end)));
    }
    if (!done) throw new Error(`nothing came of it within ${longest / 1000} s`);
    return await work;
  }

  #next(): [number, Timer] | undefined {
    let first: [number, Timer] | undefined;
    for (const each of this.#timers) if (!first || each[1].at < first[1].at) first = each;
    return first;
  }

  [Symbol.dispose](): void {
    Math.random = this.#real.random;
    Object.assign(globalThis, { setTimeout: this.#real.setTimeout, clearTimeout: this.#real.clearTimeout });
  }
}

/** A small generator with a seed, so that a history that fails can be had again. @returns what draws 0 to below that */
export function random(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below;
  };
}
