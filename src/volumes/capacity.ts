import { abortable } from "../runtime/deadline.ts";
import { Cancelled, isRetriable, NoSpace, OutOfRange } from "../runtime/errors.ts";
import type { ControllerMetrics } from "../runtime/controller_metrics.ts";

/** What RouterOS says of a pool, in bytes (`rds/decode.ts`). */
interface Pool {
  size: bigint;
  free: bigint;
  promised: bigint;
}

/** Settings of {@linkcode Capacity}. */
export interface CapacityOptions {
  read: (pool: string) => Promise<Pool>;
  /** How much may be promised, as a multiple of the pool's size; over 1 the pool can run full under its volumes. */
  ratio: number;
  /** Bytes that are never promised: for whatever else lies on the pool. */
  reserve: bigint;
  metrics?: Pick<ControllerMetrics, "poolSize" | "poolFree" | "poolPromised"> | undefined;
  now?: () => number;
}

/** What one volume takes of a pool, from before it is asked for until a reading shows it. */
interface Taken {
  pool: string;
  bytes: bigint;
  /** When it was there for sure, in milliseconds; undefined while that is not known. */
  since: number | undefined;
}

/** A pool as it was read. */
interface Reading {
  /** When the reading began, in milliseconds. */
  at: number;
  size: bigint;
  left: bigint;
}

/** Milliseconds that a reading may serve for new volumes; what they take is counted off meanwhile. */
const FRESH = 60_000;
/** Milliseconds that the room of a volume is kept whose making failed: it may still come into being. */
const KEPT = 120_000;

/**
 * What may still be promised. Files on the pool may be sparse, so its free space alone says too much: every file disk
 * counts with all that it may grow to, whether that is written already or not.
 */
export class Capacity {
  readonly #options: CapacityOptions;
  readonly #readings = new Map<string, Reading>();
  readonly #reading = new Map<string, Promise<Reading>>();
  readonly #taken = new Map<string, Taken>();

  constructor(options: CapacityOptions) {
    this.#options = options;
  }

  /** Bytes that new volumes may take on the pool now, and the most that one of them may have: read from RouterOS. */
  async available(pool: string, signal?: AbortSignal): Promise<{ available: bigint; largest: bigint }> {
    const reading = await this.#read(pool, signal);
    const available = this.#leftOf(pool, reading);
    return { available, largest: available < reading.size ? available : reading.size };
  }

  /**
   * Keeps `bytes` of the pool for a volume while `work` makes or grows it. Asks RouterOS only when the last reading is old
   * or shows too little; the same volume again takes its room only once.
   * @throws {OutOfRange} when the whole pool is smaller; {@linkcode NoSpace} when too little is left; whatever `work` throws
   */
  async keep<T>(
    what: { pool: string; id: string; bytes: bigint },
    work: () => Promise<T>,
    signal?: AbortSignal,
  ): Promise<T> {
    const taken: Taken = { pool: what.pool, bytes: what.bytes, since: undefined };
    await this.#take(what.id, taken, signal);
    try {
      const result = await work();
      taken.since = this.#now();
      return result;
    } catch (error) {
      if (isRetriable(error) || error instanceof Cancelled) taken.since = this.#now() + KEPT;
      else if (this.#taken.get(what.id) === taken) this.#taken.delete(what.id);
      throw error;
    }
  }

  async #take(id: string, taken: Taken, signal?: AbortSignal): Promise<void> {
    const { pool, bytes } = taken;
    let reading = this.#readings.get(pool);
    const fits = (reading: Reading) => this.#leftOf(pool, reading, id) >= bytes;
    if (!reading || this.#now() - reading.at > FRESH || !fits(reading)) reading = await this.#read(pool, signal);
    if (bytes > reading.size) {
      throw new OutOfRange(`${bytes} bytes are more than the pool ${pool} has (${reading.size}): ask for less`);
    }
    if (!fits(reading)) {
      throw new NoSpace(
        `${bytes} bytes are wanted and ${
          this.#leftOf(pool, reading, id)
        } can still be promised on the pool ${pool}: delete ` +
          "volumes, enlarge the pool, or raise --capacity-ratio knowing that the pool can then run full",
      );
    }
    this.#taken.set(id, taken);
  }

  /** What a reading leaves besides what was taken since, and is not in it for sure. */
  #leftOf(pool: string, reading: Reading, except?: string): bigint {
    let rest = reading.left;
    for (const [id, taken] of this.#taken) {
      if (taken.since !== undefined && taken.since < reading.at) this.#taken.delete(id);
      else if (taken.pool === pool && id !== except) rest -= taken.bytes;
    }
    return rest > 0n ? rest : 0n;
  }

  /** One reading of a pool serves all who wait for it. */
  #read(pool: string, signal?: AbortSignal): Promise<Reading> {
    const reading = this.#reading.get(pool) ?? this.#ask(pool).finally(() => this.#reading.delete(pool));
    this.#reading.set(pool, reading);
    return abortable(reading, signal);
  }

  async #ask(pool: string): Promise<Reading> {
    const at = this.#now();
    const { size, free, promised } = await this.#options.read(pool);
    this.#options.metrics?.poolSize.set({ pool }, Number(size));
    this.#options.metrics?.poolFree.set({ pool }, Number(free));
    this.#options.metrics?.poolPromised.set({ pool }, Number(promised));
    const reading = { at, size, left: left({ size, free, promised }, this.#options) };
    this.#readings.set(pool, reading);
    return reading;
  }

  #now(): number {
    return (this.#options.now ?? Date.now)();
  }
}

/** Pure: what is left to promise, never negative. Free space bounds it too: other data may lie on the pool. */
export function left({ size, free, promised }: Pool, { ratio, reserve }: { ratio: number; reserve: bigint }): bigint {
  const times = (bytes: bigint) => bytes * BigInt(Math.round(ratio * 1000)) / 1000n;
  const unpromised = times(size) - promised;
  const rest = (unpromised < times(free) ? unpromised : times(free)) - reserve;
  return rest > 0n ? rest : 0n;
}
