import { Cancelled, TimedOut } from "./errors.ts";

/** A time limit that can be let go. Use it with `using`, so that no timer outlives its work. */
export class Deadline implements Disposable {
  readonly #controller = new AbortController();
  readonly #milliseconds: number;
  readonly #what: string;
  #timer: ReturnType<typeof setTimeout>;
  readonly #parent: AbortSignal | undefined;
  readonly #onParent = () => this.#controller.abort(reasonOf(this.#parent as AbortSignal));

  /**
   * @param milliseconds from now; past it `signal` aborts with a {@linkcode TimedOut} that says `what` was waited for
   * @param what completes the sentence "no answer within 10 s from …"
   * @param parent a caller's signal: when it aborts, this one does too, with the caller's reason
   */
  constructor(milliseconds: number, what: string, parent?: AbortSignal) {
    this.#milliseconds = milliseconds;
    this.#what = what;
    this.#parent = parent;
    this.#timer = this.#begin();
    if (parent?.aborted) this.#onParent();
    else parent?.addEventListener("abort", this.#onParent, { once: true });
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** Counts anew from now. */
  extend(): void {
    clearTimeout(this.#timer);
    this.#timer = this.#begin();
  }

  /** The time is no longer limited; the caller's signal still counts. */
  lift(): void {
    clearTimeout(this.#timer);
  }

  #begin(): ReturnType<typeof setTimeout> {
    const seconds = this.#milliseconds / 1000;
    const late = () => this.#controller.abort(new TimedOut(`no answer within ${seconds} s from ${this.#what}`));
    return setTimeout(late, this.#milliseconds);
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
    this.#parent?.removeEventListener("abort", this.#onParent);
  }
}

/** Why a signal aborted, as an error of the domain. */
export function reasonOf(signal: AbortSignal): Error {
  const reason = signal.reason;
  if (reason instanceof Error && reason.name !== "AbortError") return reason;
  return new Cancelled("the caller cancelled the request", { cause: reason });
}

/** Throws the signal's reason if it has aborted. */
export function throwIfAborted(signal?: AbortSignal): void {
  if (signal?.aborted) throw reasonOf(signal);
}

/** Settles as `promise` does, or rejects with the signal's reason, whichever is first. The promise itself goes on. */
export function abortable<T>(promise: Promise<T>, signal?: AbortSignal): Promise<T> {
  if (!signal) return promise;
  return new Promise<T>((resolve, reject) => {
    const onAbort = () => reject(reasonOf(signal));
    if (signal.aborted) onAbort();
    else signal.addEventListener("abort", onAbort, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener("abort", onAbort));
  });
}

/** Waits `milliseconds`, or rejects with the signal's reason. */
export function pause(milliseconds: number, signal?: AbortSignal): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, milliseconds);
  return abortable(promise, signal).finally(() => clearTimeout(timer));
}

/**
 * Asks `condition` again and again until it answers something other than `undefined`, every `interval` milliseconds
 * (20 by default). Rejects with the signal's reason: never waits without a deadline.
 */
export async function poll<T>(
  condition: () => Promise<T | undefined> | T | undefined,
  options: { signal: AbortSignal; interval?: number },
): Promise<T> {
  for (;;) {
    throwIfAborted(options.signal);
    const answer = await condition();
    if (answer !== undefined) return answer;
    await pause(options.interval ?? 20, options.signal);
  }
}
