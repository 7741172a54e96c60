import type { Kube } from "../kube/client.ts";
import { abortable, pause, throwIfAborted } from "../runtime/deadline.ts";
import { machineOf, type Pod, podsOf } from "./machine.ts";

/** A PersistentVolumeClaim. */
export interface Claim {
  namespace: string;
  name: string;
}

/** What enters holds its machine until it says how it went on. */
export interface Entered {
  /** The node has it: the machine is free when the pod is ready. */
  attached(): void;
  /** It came to nothing: the machine is free at once. */
  failed(): void;
}

/** Settings of {@linkcode MachineLock}; milliseconds. */
export interface MachineLockOptions {
  kube: Pick<Kube, "list">;
  /** A volume holds its machine for no longer than this. */
  deadline?: number;
  /** Between two looks at the pods. */
  interval?: number;
  /** A clock that only goes on. */
  now?: () => number;
}

interface Holder {
  claim: Claim;
  machines: ReadonlySet<string>;
  since: number;
  isAttached: boolean;
  /** Requests that are under way. */
  requests: number;
}

/** What a namespace looked like, and since when it did. */
interface Look {
  at: number;
  pods: Promise<Pod[]>;
}

/**
 * Attaches the volumes of one KubeVirt machine one after the other: several plugged in at once have paused machines.
 * The next waits until the pods that use the one before are ready, or a deadline. It lives in this process only and
 * forgets on a restart: it is a convenience, and nobody's data rest on it. Who waits is served in no particular order.
 */
export class MachineLock {
  readonly #options: Required<MachineLockOptions>;
  readonly #holders = new Map<string, Holder>();
  readonly #looks = new Map<string, Look>();

  constructor(options: MachineLockOptions) {
    this.#options = { deadline: 60_000, interval: 1000, now: () => performance.now(), ...options };
  }

  /**
   * Waits for the volume's turn. A volume of no machine, or of one that it holds already, enters at once.
   * @param signal the request's: a client that goes away waits for nothing and holds nothing
   * @throws what the API says when it cannot say which machine it is ({@linkcode Unreachable} and its like)
   */
  async enter(volumeId: string, claim: Claim, signal: AbortSignal): Promise<Entered> {
    throwIfAborted(signal);
    this.#forget();
    const held = this.#holders.get(volumeId);
    if (held) return this.#begin(volumeId, held, signal);
    for (let age = 0;; age = this.#options.interval) {
      const look = this.#look(claim.namespace, age);
      const pods = await abortable(look.pods, signal);
      throwIfAborted(signal);
      const machines = machinesOf(claim, pods);
      if (machines.size === 0) return { attached: () => {}, failed: () => {} };
      this.#forget();
      const mine = { claim, machines, since: this.#options.now(), isAttached: false, requests: 0 };
      if (this.#isFree(volumeId, mine, { at: look.at, pods })) {
        const holder = this.#holders.get(volumeId) ?? mine;
        this.#holders.set(volumeId, holder);
        return this.#begin(volumeId, holder, signal);
      }
      await pause(this.#options.interval, signal);
    }
  }

  #isFree(volumeId: string, mine: Holder, { at, pods }: { at: number; pods: readonly Pod[] }): boolean {
    let free = true;
    for (const [id, other] of this.#holders) {
      if (id === volumeId || mine.machines.isDisjointFrom(other.machines)) continue;
      const users = usersOf(other.claim, pods);
      // Who came after this look may have a pod that it does not show.
      if (other.since <= at && users.every(({ isReady }) => isReady)) this.#holders.delete(id);
      // A launcher pod becomes ready only when it has all of its volumes: they must not wait for each other.
      else if (!users.some(({ claims }) => claims.has(mine.claim.name))) free = false;
    }
    return free;
  }

  #begin(volumeId: string, holder: Holder, signal: AbortSignal): Entered {
    holder.requests++;
    let isOver = false;
    const end = (isAttached: boolean) => {
      if (isOver) return;
      isOver = true;
      signal.removeEventListener("abort", failed);
      holder.requests--;
      holder.isAttached ||= isAttached;
      const isUnused = holder.requests === 0 && !holder.isAttached;
      if (isUnused && this.#holders.get(volumeId) === holder) this.#holders.delete(volumeId);
    };
    const failed = () => end(false);
    signal.addEventListener("abort", failed, { once: true });
    return { attached: () => end(true), failed };
  }

  #forget(): void {
    const oldest = this.#options.now() - this.#options.deadline;
    for (const [id, { since }] of this.#holders) if (since <= oldest) this.#holders.delete(id);
    const unshared = this.#options.now() - this.#options.interval;
    for (const [namespace, { at }] of this.#looks) if (at <= unshared) this.#looks.delete(namespace);
  }

  /** The pods of a namespace, read no longer ago than `age`: those who wait share one look. */
  #look(namespace: string, age: number): Look {
    const now = this.#options.now();
    const last = this.#looks.get(namespace);
    if (last && now - last.at < age) return last;
    const pods = podsOf(this.#options.kube, namespace);
    const look = { at: now, pods };
    this.#looks.set(namespace, look);
    pods.catch(() => this.#looks.get(namespace) === look && this.#looks.delete(namespace));
    return look;
  }
}

/** Keys of the machines that use a claim: most often one; several where they share a disk. */
function machinesOf(claim: Claim, pods: readonly Pod[]): Set<string> {
  const names = usersOf(claim, pods).flatMap((pod) => machineOf(pod, pods) ?? []);
  return new Set(names.map((name) => `${claim.namespace}/${name}`));
}

function usersOf(claim: Claim, pods: readonly Pod[]): Pod[] {
  return pods.filter((pod) => !pod.isLeaving && pod.claims.has(claim.name));
}
