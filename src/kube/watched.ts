import { Deadline, pause, throwIfAborted } from "../runtime/deadline.ts";
import { log } from "../runtime/log.ts";
import type { Kube, KubeObject } from "./client.ts";
import { Gone } from "./errors.ts";

/** Settings of {@linkcode Watched}. */
export interface WatchedOptions<T> {
  kube: Pick<Kube, "list" | "watch">;
  path: string;
  /** What is kept of an object; undefined: nothing. One that throws is left out with a warning and harms no other. */
  keep: (object: KubeObject) => T | undefined;
  /** Told of each change, with what was kept before. */
  changed?: (name: string, now: T | undefined, before: T | undefined) => void;
  /** Milliseconds of silence after which a watch is begun anew; the API server gives a sign every minute (bookmarks). */
  silence?: number;
  /** Milliseconds of a clock that only goes on. */
  now?: () => number;
  /** 0 to 1, for the length of pauses. */
  random?: () => number;
}

/** Longest pause between two attempts, milliseconds. */
const LONGEST_PAUSE = 10_000;

/**
 * A copy of all objects of a kind, listed once and watched from there. The list is read from a quorum, so that it never
 * shows less than an earlier one; a failed page is a failed list, and nothing is taken for gone because of it.
 */
export class Watched<T> {
  readonly #options: WatchedOptions<T>;
  readonly #kept = new Map<string, T>();
  readonly #now: () => number;
  readonly #random: () => number;
  #version = "";
  #sign = -Infinity;
  #ended: Promise<void> | undefined;

  constructor(options: WatchedOptions<T>) {
    this.#options = options;
    this.#now = options.now ?? (() => performance.now());
    this.#random = options.random ?? Math.random;
  }

  /** What is kept, by the object's name. */
  get objects(): ReadonlyMap<string, T> {
    return this.#kept;
  }

  /** Milliseconds since the server last gave a sign of life: what happened later may not be seen yet. */
  get age(): number {
    return this.#now() - this.#sign;
  }

  /**
   * Lists, trying again until it works; then watches until `signal` aborts.
   * @param first limits the time until the first list; it aborts when `signal` does
   */
  async start(signal: AbortSignal, first: AbortSignal): Promise<void> {
    await this.#attempts(() => this.#list(first), first);
    this.#ended = this.#follow(signal);
  }

  /** Settles when it no longer watches. */
  get ended(): Promise<void> {
    return this.#ended ?? Promise.resolve();
  }

  async #follow(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      try {
        await this.#attempts(() => this.#watch(signal), signal);
        await this.#attempts(() => this.#list(signal), signal);
      } catch (error) {
        if (!signal.aborted) log.error("a watch ended", { path: this.#options.path, error });
      }
    }
  }

  /** Repeats `work` until it ends by itself; every failure makes the pause longer. */
  async #attempts(work: () => Promise<void>, signal: AbortSignal): Promise<void> {
    for (let failures = 0;;) {
      const before = this.#sign;
      try {
        return await work();
      } catch (error) {
        throwIfAborted(signal);
        failures = this.#sign > before ? 1 : failures + 1;
        log.warn("the Kubernetes API does not answer: trying again", { path: this.#options.path, failures, error });
        await pause(this.#random() * Math.min(LONGEST_PAUSE, 500 * 2 ** failures), signal);
      }
    }
  }

  async #list(signal: AbortSignal): Promise<void> {
    const began = this.#now();
    const found = new Map<string, T>();
    this.#version = await this.#options.kube.list(this.#options.path, (object) => {
      const kept = this.#keep(object);
      if (kept !== undefined) found.set(object.metadata.name, kept);
    }, { signal });
    for (const name of [...this.#kept.keys()]) if (!found.has(name)) this.#set(name, undefined);
    for (const [name, kept] of found) this.#set(name, kept);
    this.#sign = began;
  }

  /** Returns when a list is needed. */
  async #watch(parent: AbortSignal): Promise<void> {
    const { kube, path, silence = 75_000 } = this.#options;
    for (let isLost = false; !isLost;) {
      let isAlive = false;
      using quiet = new Deadline(silence, `the watch of ${path}`, parent);
      const { signal } = quiet;
      try {
        for await (const { type, object } of kube.watch(path, { resourceVersion: this.#version, signal })) {
          quiet.extend();
          isAlive = true;
          if (type !== "BOOKMARK") this.#set(object.metadata.name, type === "DELETED" ? undefined : this.#keep(object));
          const { resourceVersion } = object.metadata;
          if (resourceVersion && type === "BOOKMARK" && isOlder(resourceVersion, this.#version)) {
            throw new Gone(`the versions of ${path} went back`);
          }
          this.#version = resourceVersion || this.#version;
          this.#sign = this.#now();
        }
      } catch (error) {
        throwIfAborted(parent);
        // What brought no sign of life may never bring one from this version on: after a restore, or on servers that send
        // no bookmark before the first event.
        isLost = error instanceof Gone || !isAlive;
        if (!isLost) throw error;
        log.info("a watch has to begin with a list", { path, error });
      }
      // The server ends watches now and then; one that it ends at once is not asked again at once.
      await pause(this.#random() * 1000, parent);
    }
  }

  /** What cannot be read is not gone: what was kept of it stays. */
  #keep(object: KubeObject): T | undefined {
    try {
      return this.#options.keep(object);
    } catch (error) {
      const { path } = this.#options;
      const { name } = object.metadata;
      log.warn("an object is not as it should be; it is left as it was", { path, name, error });
      return this.#kept.get(name);
    }
  }

  #set(name: string, now: T | undefined): void {
    const before = this.#kept.get(name);
    if (now === undefined) this.#kept.delete(name);
    else this.#kept.set(name, now);
    if (now === undefined && before === undefined) return;
    try {
      this.#options.changed?.(name, now, before);
    } catch (error) {
      log.error("a change could not be told", { path: this.#options.path, name, error });
    }
  }
}

/** Versions are whole numbers in every API server there is; of others nothing is said. */
function isOlder(version: string, than: string): boolean {
  const isNumber = /^\d{1,30}$/;
  return isNumber.test(version) && isNumber.test(than) && BigInt(version) < BigInt(than);
}
