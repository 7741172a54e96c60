import { pause } from "../runtime/deadline.ts";
import { log } from "../runtime/log.ts";
import type { Annotations } from "./annotations.ts";
import type { View } from "./view.ts";

/** Settings of {@linkcode Resets}. */
export interface ResetsOptions {
  view: Pick<View, "pvs">;
  annotations: Pick<Annotations, "forgetReset">;
  /** Milliseconds that the annotation stays: longer than a node's circuit breaker stays open. */
  lifetime: number;
  /** Milliseconds of a clock that only goes on. */
  now: () => number;
}

/**
 * Takes `reset-circuit-breaker` off PVs when every node has had the time to read it, so that it does not stand there for
 * the next failure, months later. Nodes may not write to PVs.
 */
export class Resets {
  readonly #options: ResetsOptions;
  readonly #since = new Map<string, number>();

  constructor(options: ResetsOptions) {
    this.#options = options;
  }

  /** Looks now and then until `signal` aborts. */
  async lead(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      await this.look(signal);
      await pause(this.#options.lifetime / 10, signal).catch(() => {});
    }
  }

  /** One look. */
  async look(signal: AbortSignal): Promise<void> {
    const { view, annotations, lifetime, now } = this.#options;
    const asking = new Set([...view.pvs()].filter(({ asksForReset }) => asksForReset).map(({ name }) => name));
    for (const name of this.#since.keys()) if (!asking.has(name)) this.#since.delete(name);
    for (const name of asking) {
      const since = this.#since.get(name) ?? now();
      this.#since.set(name, since);
      if (now() - since < lifetime) continue;
      try {
        await annotations.forgetReset(name, signal);
      } catch (error) {
        if (!signal.aborted) {
          log.warn("reset-circuit-breaker could not be taken off a PV: it is tried again", { name, error });
        }
      }
    }
  }
}
