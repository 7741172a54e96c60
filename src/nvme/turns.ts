import { abortable } from "../runtime/deadline.ts";

/** Work in turns: one at a time for each key, in the order of asking. Whoever waits can leave. */
export class Turns {
  readonly #last = new Map<string, Promise<void>>();

  /** Runs `work` when those who came before with the same key have ended. */
  async run<T>(key: string, work: () => Promise<T>, options: { signal: AbortSignal }): Promise<T> {
    const before = this.#last.get(key) ?? Promise.resolve();
    const { promise: ended, resolve: end } = Promise.withResolvers<void>();
    const tail = before.then(() => ended);
    this.#last.set(key, tail);
    try {
      await abortable(before, options.signal);
      return await work();
    } finally {
      end();
      if (this.#last.get(key) === tail) this.#last.delete(key);
    }
  }
}

/** So many places for work, taken in the order of asking. Whoever waits can leave. */
export class Places {
  readonly #waiting: (() => void)[] = [];
  #free: number;

  constructor(count: number) {
    this.#free = count;
  }

  /** Runs `work` when a place is free. */
  async run<T>(work: () => Promise<T>, options: { signal: AbortSignal }): Promise<T> {
    await this.#take(options.signal);
    try {
      return await work();
    } finally {
      this.#leave();
    }
  }

  async #take(signal: AbortSignal): Promise<void> {
    if (this.#free > 0) {
      this.#free--;
      return;
    }
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#waiting.push(resolve);
    try {
      await abortable(promise, signal);
    } catch (error) {
      const place = this.#waiting.indexOf(resolve);
      if (place >= 0) this.#waiting.splice(place, 1);
      else this.#leave(); // The place came in the same moment: it goes to the next.
      throw error;
    }
  }

  #leave(): void {
    const next = this.#waiting.shift();
    if (next) next();
    else this.#free++;
  }
}
