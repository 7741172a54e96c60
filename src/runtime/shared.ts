/**
 * Work whose outcome many want at the same time, and each not older than the moment it asked: whoever asks while it is under
 * way waits for its end and shares the next one.
 */
export class Shared<T> {
  readonly #work: () => Promise<T>;
  #running: Promise<unknown> = Promise.resolve();
  #next: Promise<T> | undefined;

  constructor(work: () => Promise<T>) {
    this.#work = work;
  }

  /** What comes of the work, begun after this call. Rejects as the work does. */
  run(): Promise<T> {
    return this.#next ??= this.#begun();
  }

  async #begun(): Promise<T> {
    await this.#running;
    this.#next = undefined;
    const working = this.#work();
    this.#running = working.catch(() => {});
    return await working;
  }
}
