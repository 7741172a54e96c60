import { Deadline, pause, throwIfAborted } from "../runtime/deadline.ts";
import { AlreadyExists, NotFound } from "../runtime/errors.ts";
import { log } from "../runtime/log.ts";
import type { Kube, KubeObject } from "./client.ts";
import { Conflict } from "./errors.ts";

/** A Lease of coordination.k8s.io/v1. */
export interface LeaseObject extends KubeObject {
  spec?: {
    holderIdentity?: string;
    leaseDurationSeconds?: number;
    leaseTransitions?: number;
    acquireTime?: string;
    renewTime?: string;
  };
}

/** Settings of {@linkcode Lease}; times in milliseconds. */
export interface LeaseOptions {
  kube: Pick<Kube, "get" | "create" | "replace">;
  namespace: string;
  name: string;
  /** The host's name; something random is added, so that a restarted process is somebody else. */
  host: string;
  /** A lease that was not seen to change for so long may be taken. */
  duration?: number;
  /** Without a renewal for so long nobody is leader: shorter than `duration`, so that work has time to stop. */
  renewDeadline?: number;
  /** Between two attempts. */
  retry?: number;
  /** A clock that only goes on. */
  now?: () => number;
  /** The time of day, for people who read the lease. */
  wall?: () => Date;
  pause?: typeof pause;
}

/**
 * Leadership of one of several replicas, by the rules of client-go's leaderelection: somebody else's lease is judged by
 * how long we have seen it unchanged on our own clock, never by its timestamps. Like there, it is no fence: it holds as
 * long as clocks run at like speed and work stops when its signal aborts. No volume's safety may rest on it.
 */
export class Lease {
  readonly holder: string;
  readonly #options: Required<LeaseOptions>;
  readonly #path: string;
  #seen: { version: string | undefined; at: number } | undefined;
  #until = -Infinity;
  #term: Promise<void> | undefined;
  #lost = new AbortController();

  constructor(options: LeaseOptions) {
    this.#options = {
      duration: 15_000,
      renewDeadline: 10_000,
      retry: 2000,
      now: () => performance.now(),
      wall: () => new Date(),
      pause,
      ...options,
    };
    this.#path = `/apis/coordination.k8s.io/v1/namespaces/${options.namespace}/leases`;
    this.holder = `${options.host}_${crypto.randomUUID()}`;
  }

  /** Whether we lead at this very moment. */
  get isLeader(): boolean {
    return this.#options.now() < this.#until;
  }

  /**
   * Runs `work` while leading, until `stop` aborts; then gives the lease up. One call at a time. Work that throws is begun
   * again while leading; work that ends is done for this term.
   * @param work must end soon after its signal aborts: leadership is lost then, or `stop` aborted
   */
  async leading(work: (signal: AbortSignal) => Promise<void>, stop: AbortSignal): Promise<void> {
    while (!stop.aborted) {
      await this.#attempt(stop);
      if (this.isLeader) this.#term ??= this.#lead(work, stop).finally(() => this.#term = undefined);
      await this.#options.pause(this.#options.retry, stop).catch(() => {});
    }
    await this.#term;
    await this.#giveUp();
  }

  /** One term: from leadership to its end, and the end of the work. */
  async #lead(work: (signal: AbortSignal) => Promise<void>, stop: AbortSignal): Promise<void> {
    const { now, pause, name } = this.#options;
    const lost = this.#lost = new AbortController();
    const { signal } = lost;
    const end = () => lost.abort(stop.reason);
    if (stop.aborted) end();
    stop.addEventListener("abort", end, { once: true });
    log.info("this replica leads", { lease: name, holder: this.holder });
    const working = this.#work(work, signal);
    while (this.isLeader && !signal.aborted) await pause(this.#until - now(), signal).catch(() => {});
    if (!this.isLeader) this.#resign();
    if (!stop.aborted) log.warn("this replica no longer leads", { lease: name, holder: this.holder });
    await working;
    stop.removeEventListener("abort", end);
  }

  async #work(work: (signal: AbortSignal) => Promise<void>, signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      try {
        return await work(signal);
      } catch (error) {
        if (signal.aborted) return;
        log.error("the leader's work failed: it begins again", { lease: this.#options.name, error });
        await this.#options.pause(this.#options.retry, signal).catch(() => {});
      }
    }
  }

  async #attempt(stop: AbortSignal): Promise<void> {
    const { renewDeadline, name } = this.#options;
    // Half of the time for renewing, so that one lost answer leaves a second try.
    using deadline = new Deadline(renewDeadline / 2, `Kubernetes to renew the lease ${name}`, stop);
    try {
      await this.#acquire(deadline.signal);
    } catch (error) {
      if (!stop.aborted) log.warn("the lease could not be looked at", { lease: name, error });
    }
  }

  async #acquire(signal: AbortSignal): Promise<void> {
    const { now, duration } = this.#options;
    const found = await this.#read(signal);
    throwIfAborted(signal);
    const version = found?.metadata.resourceVersion;
    if (!this.#seen || this.#seen.version !== version) this.#seen = { version, at: now() };
    const { holderIdentity = "", leaseDurationSeconds = 0 } = found?.spec ?? {};
    const mine = holderIdentity === this.holder;
    if (!mine) {
      this.#resign();
      const wait = holderIdentity === "" ? 0 : Math.max(duration, leaseDurationSeconds * 1000);
      if (now() - this.#seen.at < wait) return;
    }
    // Counted from before it was sent: others cannot have seen it earlier.
    const sent = now();
    if (await this.#write(found, this.#specOf(found, this.holder), signal)) {
      this.#until = sent + this.#options.renewDeadline;
    }
  }

  #resign(): void {
    this.#until = -Infinity;
    this.#lost.abort(new Error(`this replica no longer leads (${this.#options.name})`));
  }

  async #read(signal: AbortSignal): Promise<LeaseObject | undefined> {
    const { kube, name } = this.#options;
    try {
      return await kube.get<LeaseObject>(`${this.#path}/${name}`, { signal });
    } catch (error) {
      if (error instanceof NotFound) return undefined;
      throw error;
    }
  }

  /** @returns whether nobody was quicker */
  async #write(found: LeaseObject | undefined, spec: LeaseObject["spec"], signal: AbortSignal): Promise<boolean> {
    const { kube, name, namespace } = this.#options;
    const base = { apiVersion: "coordination.k8s.io/v1", kind: "Lease" };
    try {
      if (found) await kube.replace(`${this.#path}/${name}`, { ...base, ...found, spec }, { signal });
      else await kube.create(this.#path, { ...base, metadata: { name, namespace }, spec }, { signal });
      return true;
    } catch (error) {
      if (error instanceof Conflict || error instanceof AlreadyExists) return false;
      throw error;
    }
  }

  #specOf(found: LeaseObject | undefined, holder: string): LeaseObject["spec"] {
    const now = this.#options.wall().toISOString().replace("Z", "000Z"); // MicroTime of meta/v1
    const { holderIdentity, acquireTime = now, leaseTransitions = -1 } = found?.spec ?? {};
    const same = holderIdentity === holder;
    return {
      ...found?.spec,
      holderIdentity: holder,
      leaseDurationSeconds: Math.ceil(this.#options.duration / 1000),
      acquireTime: same ? acquireTime : now,
      leaseTransitions: Math.max(0, leaseTransitions + (same ? 0 : 1)),
      renewTime: now,
    };
  }

  /** So that the next need not wait. It comes after the work has ended. */
  async #giveUp(): Promise<void> {
    this.#until = -Infinity;
    const { renewDeadline, name } = this.#options;
    using deadline = new Deadline(renewDeadline / 2, `Kubernetes to give up the lease ${name}`);
    try {
      const found = await this.#read(deadline.signal);
      if (!found || found.spec?.holderIdentity !== this.holder) return;
      await this.#write(found, { ...found.spec, holderIdentity: "" }, deadline.signal);
    } catch (error) {
      log.warn("the lease could not be given up: the next leader has to wait", { lease: name, error });
    }
  }
}
