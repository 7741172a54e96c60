import { abortable } from "../runtime/deadline.ts";

/** Work in turns: one at a time for each key, and only so many over all. Whoever waits can leave. */
export class Turns {
  readonly #last = new Map<string, Promise<void>>();
  readonly #waiting: (() => void)[] = [];
  #free: number;

  /** @param limit how many may work at the same time */
  constructor(limit: number) {
    this.#free = limit;
  }

  /** Runs `work` when those who came before with the same key have ended and a place is free. */
  async run<T>(key: string, work: () => Promise<T>, options: { signal: AbortSignal }): Promise<T> {
    const before = this.#last.get(key) ?? Promise.resolve();
    const { promise: ended, resolve: end } = Promise.withResolvers<void>();
    const tail = before.then(() => ended);
    this.#last.set(key, tail);
    try {
      await abortable(before, options.signal);
      return await this.#withPlace(work, options.signal);
    } finally {
      end();
      if (this.#last.get(key) === tail) this.#last.delete(key);
    }
  }

  async #withPlace<T>(work: () => Promise<T>, signal: AbortSignal): Promise<T> {
    await this.#place(signal);
    try {
      return await work();
    } finally {
      this.#leave();
    }
  }

  async #place(signal: AbortSignal): Promise<void> {
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
