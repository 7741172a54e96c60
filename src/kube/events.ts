import { abortable, pause } from "../runtime/deadline.ts";
import { AlreadyExists, FailedPrecondition, isRetriable, NotFound } from "../runtime/errors.ts";
import { log } from "../runtime/log.ts";
import type { Kube } from "./client.ts";
import { Conflict, NamespaceEnding } from "./errors.ts";
import { type About, type Event, eventOf, namespaceOf, type Source, timeOf, type Told } from "./event.ts";

export type { About, Told } from "./event.ts";

/** What is counted. */
export interface EventMetrics {
  eventsPosted: { inc(labels: { reason: string }): void };
  eventsLost: { inc(labels: { reason: string }): void };
}

/** Settings of {@linkcode Events}. */
export interface EventsOptions extends Source {
  kube: Pick<Kube, "create" | "patch">;
  metrics: EventMetrics;
  /** Milliseconds until one that was forbidden is tried again: somebody has to give the permission first. */
  slow?: number;
  /** 0 to 1, for the length of pauses. */
  random?: () => number;
  wall?: () => Date;
}

/** What is told of something that has to be looked for first, behind the caller's back; what cannot be asked is asked again. */
export interface ToldOfSought extends Omit<Told, "about"> {
  about: (signal: AbortSignal) => Promise<About>;
}

interface Waiting {
  told: Told | ToldOfSought;
  at: Date;
}

/** Events that may wait. */
const LONGEST_QUEUE = 1000;
/** Longest pause between two attempts, milliseconds. */
const LONGEST_PAUSE = 30_000;

/**
 * Tells people of what happens, as Events of core/v1. They are sent one after the other behind the caller's back; while
 * the API is away they wait, and what does not fit or is refused for good is counted and logged.
 */
export class Events {
  readonly #options: EventsOptions;
  readonly #stop = new AbortController();
  readonly #random: () => number;
  #queue: Waiting[] = [];
  #denied: Waiting[] = [];
  #timer: ReturnType<typeof setTimeout> | undefined;
  #working: Promise<void> | undefined;
  #closing = false;
  #isDenied = false;

  constructor(options: EventsOptions) {
    this.#options = options;
    this.#random = options.random ?? Math.random;
  }

  /** Queues it. Never waits, never throws. */
  post(told: Told): void {
    this.#enqueue(told);
  }

  /** The same of something that has to be looked for first. */
  postSought(told: ToldOfSought): void {
    this.#enqueue(told);
  }

  #enqueue(told: Told | ToldOfSought): void {
    const waiting = { told, at: this.#now() };
    if (this.#closing) return this.#lose(waiting, "the driver is stopping");
    if (this.#queue.length + this.#denied.length >= LONGEST_QUEUE) return this.#lose(waiting, "too many are waiting");
    this.#queue.push(waiting);
    this.#begin();
  }

  /**
   * Tells it unless somebody has told it under this key, whatever the words: for what all replicas notice. It holds for
   * as long as the API server keeps events (its --event-ttl, one hour by default).
   * @returns true: told now; false: it had been told
   * @throws whatever leaves that unknown: try again
   */
  async once(told: Told, key: string, signal: AbortSignal): Promise<boolean> {
    try {
      await this.#create(eventOf(told, this.#source, { at: this.#now(), key }), signal);
      this.#options.metrics.eventsPosted.inc({ reason: told.reason });
      return true;
    } catch (error) {
      if (error instanceof AlreadyExists) return false;
      throw error;
    }
  }

  /** Sends what is left, within so many milliseconds; what is left then is counted and logged. */
  async close(milliseconds: number): Promise<void> {
    this.#closing = true;
    this.#retryDenied();
    const timer = setTimeout(() => this.#stop.abort(new Error("the driver is stopping")), milliseconds);
    await this.#working?.finally(() => clearTimeout(timer));
    clearTimeout(timer);
    for (const waiting of [...this.#queue, ...this.#denied]) this.#lose(waiting, "the driver is stopping");
    this.#queue = this.#denied = [];
  }

  #begin(): void {
    this.#working ??= this.#work();
  }

  async #work(): Promise<void> {
    const { signal } = this.#stop;
    for (let failures = 0; this.#queue.length > 0 && !signal.aborted;) {
      const waiting = this.#queue[0] as Waiting;
      try {
        await abortable(this.#say(waiting, signal), signal);
        this.#queue.shift();
        this.#options.metrics.eventsPosted.inc({ reason: waiting.told.reason });
        failures = 0;
        if (this.#isDenied) this.#retryDenied();
        this.#isDenied = false;
      } catch (error) {
        if (signal.aborted) break;
        if (!isRetriable(error)) {
          this.#queue.shift();
          this.#refused(waiting, error);
          continue;
        }
        // To the end: what one namespace does not take must not keep the others' waiting.
        this.#queue.push(this.#queue.shift() as Waiting);
        log.warn("an event cannot be posted: trying again", {
          reason: waiting.told.reason,
          failures: ++failures,
          error,
        });
        await pause(this.#random() * Math.min(LONGEST_PAUSE, 500 * 2 ** failures), signal).catch(() => {});
      }
    }
    this.#working = undefined;
  }

  #refused(waiting: Waiting, error: unknown): void {
    const mayCome = error instanceof FailedPrecondition && !(error instanceof NamespaceEnding);
    if (!mayCome || this.#closing) return this.#lose(waiting, error);
    if (!this.#isDenied) {
      log.error("the driver may not post events: give it 'create' and 'patch' on events; they wait until then", {
        error,
      });
    }
    this.#isDenied = true;
    this.#denied.push(waiting);
    this.#retryLater();
  }

  #retryLater(): void {
    this.#timer ??= setTimeout(() => this.#retryDenied(1), this.#options.slow ?? 60_000);
  }

  /** One shows whether the permission has come; then the others follow. */
  #retryDenied(many = this.#denied.length): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#queue.push(...this.#denied.splice(0, many));
    if (this.#denied.length > 0) this.#retryLater();
    if (this.#queue.length > 0) this.#begin();
  }

  /** Made, or counted once more where the same was said already. Two who count at once may count one too few. */
  async #say({ told, at }: Waiting, signal: AbortSignal): Promise<void> {
    const about = typeof told.about === "function" ? await told.about(signal) : told.about;
    const event = eventOf({ ...told, about }, this.#source, { at });
    try {
      return await this.#create(event, signal);
    } catch (error) {
      if (!(error instanceof AlreadyExists)) throw error;
    }
    const path = `${eventsPath(namespaceOf(about))}/${event.metadata.name}`;
    try {
      const before = await this.#options.kube.patch<Event>(path, { lastTimestamp: timeOf(at) }, { signal });
      await this.#options.kube.patch(path, { count: (before.count ?? 1) + 1 }, { signal });
    } catch (error) {
      if (error instanceof NotFound) throw new Conflict("the event ended in between; try again", { cause: error });
      throw error;
    }
  }

  async #create(event: Event, signal: AbortSignal): Promise<void> {
    await this.#options.kube.create(eventsPath(event.metadata.namespace as string), event, { signal });
  }

  #lose({ told }: Waiting, why: unknown): void {
    this.#options.metrics.eventsLost.inc({ reason: told.reason });
    const about = typeof told.about === "function" ? undefined : told.about.name;
    log.warn("an event is lost", { about, reason: told.reason, message: told.message, why });
  }

  #now(): Date {
    return this.#options.wall?.() ?? new Date();
  }

  get #source(): Source {
    const { component, host } = this.#options;
    return { component, host };
  }
}

function eventsPath(namespace: string): string {
  return `/api/v1/namespaces/${namespace}/events`;
}
