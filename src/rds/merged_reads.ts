import { abortable, throwIfAborted } from "../runtime/deadline.ts";

/**
 * Reads of single things that wait for the same channel become one query. A read joins only a query that was not sent
 * yet: what it returns is never older than the request.
 */
export class MergedReads<T> {
  readonly #readAll: (keys: () => readonly string[]) => Promise<T[]>;
  readonly #keyOf: (thing: T) => string;
  #waiting: { keys: Set<string>; answer: Promise<Map<string, T>> } | undefined;

  /**
   * @param readAll sends one query; it calls `keys` at the moment of sending, and from then on nobody joins
   * @param keyOf tells which key a thing answers
   */
  constructor(readAll: (keys: () => readonly string[]) => Promise<T[]>, keyOf: (thing: T) => string) {
    this.#readAll = readAll;
    this.#keyOf = keyOf;
  }

  /** The thing with that key, or undefined when the query showed none. Rejects as the query does. */
  async get(key: string, signal?: AbortSignal): Promise<T | undefined> {
    throwIfAborted(signal);
    if (this.#waiting && this.#waiting.keys.size >= LIMIT) this.#waiting = undefined;
    const batch = this.#waiting ??= this.#open();
    batch.keys.add(key);
    return (await abortable(batch.answer, signal)).get(key);
  }

  #open(): { keys: Set<string>; answer: Promise<Map<string, T>> } {
    const keys = new Set<string>();
    const batch = { keys, answer: Promise.resolve(new Map<string, T>()) };
    const close = () => {
      if (this.#waiting === batch) this.#waiting = undefined;
      return [...keys];
    };
    batch.answer = Promise.resolve().then(() => this.#readAll(close)).finally(close)
      .then((things) => new Map(things.map((thing) => [this.#keyOf(thing), thing])));
    batch.answer.catch(() => {});
    return batch;
  }
}

/** Keys in one query: a line of some 5,000 characters. */
const LIMIT = 100;
