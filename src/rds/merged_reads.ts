import { abortable, throwIfAborted } from "../runtime/deadline.ts";

/**
 * Reads of single things that wait for the same channel become one query. A read joins only a query that was not sent
 * yet: what it returns is never older than the request.
 */
export class MergedReads<T> {
  readonly #readAll: (keys: () => readonly string[]) => Promise<T[]>;
  readonly #keyOf: (thing: T) => string;
  #waiting: Batch<T> | undefined;

  /**
   * @param readAll sends one query; it calls `keys` at the moment of sending, and from then on nobody joins
   * @param keyOf tells which key a thing answers
   */
  constructor(readAll: (keys: () => readonly string[]) => Promise<T[]>, keyOf: (thing: T) => string) {
    this.#readAll = readAll;
    this.#keyOf = keyOf;
  }

  /** The things with that key: none when the query showed none. Rejects as the query does. */
  async get(key: string, signal?: AbortSignal): Promise<T[]> {
    throwIfAborted(signal);
    if (this.#waiting && this.#waiting.keys.size >= LIMIT) this.#waiting = undefined;
    const batch = this.#waiting ??= this.#open();
    batch.keys.add(key);
    return (await abortable(batch.answer, signal)).get(key) ?? [];
  }

  #open(): Batch<T> {
    const keys = new Set<string>();
    const batch: Batch<T> = { keys, answer: Promise.resolve(new Map()) };
    const close = () => {
      if (this.#waiting === batch) this.#waiting = undefined;
      return [...keys];
    };
    batch.answer = Promise.resolve().then(() => this.#readAll(close)).finally(close)
      .then((things) => Map.groupBy(things, this.#keyOf));
    batch.answer.catch(() => {});
    return batch;
  }
}

/** Reads that go out together. */
interface Batch<T> {
  keys: Set<string>;
  answer: Promise<Map<string, T[]>>;
}

/** Keys in one query: a line of some 5,000 characters. */
const LIMIT = 100;
