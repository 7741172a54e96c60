import { Stuck } from "./command.ts";
import { Busy } from "./errors.ts";

/** One holder a key; a second one is refused at once instead of queued (sidecars and kubelet repeat by themselves). */
export class KeyedLock {
  readonly #held = new Map<string, { what: string }>();

  /**
   * Runs `work` while holding `key`; and a program that it left behind hanging in the kernel holds the key until it ends.
   * @param what names the operation, for the message of whoever comes second
   * @throws {Busy} when somebody holds it
   */
  async run<T>(key: string, what: string, work: () => Promise<T>): Promise<T> {
    const holder = this.#held.get(key);
    if (holder) {
      throw new Busy(
        `${holder.what} of ${key} is still under way: this ${what} is refused; try again when it has ended`,
      );
    }
    const mine = { what };
    this.#held.set(key, mine);
    try {
      return await work();
    } catch (error) {
      if (error instanceof Stuck) this.#hold(key, `a process that hangs in the kernel (${what})`, error.ended);
      throw error;
    } finally {
      this.#release(key, mine);
    }
  }

  /** Keeps `key` held until `until` settles: for work that was given up but still goes on behind us. */
  #hold(key: string, what: string, until: Promise<unknown>): void {
    const mine = { what };
    this.#held.set(key, mine);
    until.catch(() => {}).finally(() => this.#release(key, mine));
  }

  #release(key: string, mine: { what: string }): void {
    if (this.#held.get(key) === mine) this.#held.delete(key);
  }
}
