import { NoSpace, OutOfRange } from "../runtime/errors.ts";
import type { Metrics } from "../runtime/metrics.ts";

/** What RouterOS says of a pool, in bytes (`rds/decode.ts`). */
interface Pool {
  size: bigint;
  free: bigint;
  promised: bigint;
}

/** Settings of {@linkcode Capacity}. */
export interface CapacityOptions {
  read: (pool: string, signal?: AbortSignal) => Promise<Pool>;
  /** How much may be promised, as a multiple of the pool's size; over 1 the pool can run full under its volumes. */
  ratio: number;
  /** Bytes that are never promised: for whatever else lies on the pool. */
  reserve: bigint;
  metrics?: Pick<Metrics, "poolSize" | "poolFree" | "poolPromised"> | undefined;
  now?: () => number;
}

/** Milliseconds that a reading may serve for new volumes; what they take is counted off meanwhile. */
const FRESH = 60_000;

/**
 * What may still be promised. Files on the pool may be sparse, so its free space alone says too much: every file disk
 * counts with all that it may grow to, whether that is written already or not.
 */
export class Capacity {
  readonly #options: CapacityOptions;
  readonly #known = new Map<string, { at: number; left: bigint; size: bigint }>();

  constructor(options: CapacityOptions) {
    this.#options = options;
  }

  /** Bytes that new volumes may take on the pool now: read from RouterOS. */
  async available(pool: string, signal?: AbortSignal): Promise<bigint> {
    return (await this.#refresh(pool, signal)).left;
  }

  /**
   * Makes sure that `bytes` more may be promised, and counts them off. Asks RouterOS only when the last reading is old
   * or shows too little.
   * @throws {OutOfRange} when the whole pool is smaller; {@linkcode NoSpace} when too little is left
   */
  async take(pool: string, bytes: bigint, signal?: AbortSignal): Promise<void> {
    let known = this.#known.get(pool);
    if (!known || this.#now() - known.at > FRESH || known.left < bytes) known = await this.#refresh(pool, signal);
    if (bytes > known.size) {
      throw new OutOfRange(`${bytes} bytes are more than the pool ${pool} has (${known.size}): ask for less`);
    }
    if (bytes > known.left) {
      throw new NoSpace(
        `${bytes} bytes are wanted and ${known.left} can still be promised on the pool ${pool}: delete volumes, enlarge ` +
          "the pool, or raise --capacity-ratio knowing that the pool can then run full",
      );
    }
    known.left -= bytes;
  }

  async #refresh(pool: string, signal?: AbortSignal): Promise<{ at: number; left: bigint; size: bigint }> {
    const at = this.#now();
    const { size, free, promised } = await this.#options.read(pool, signal);
    this.#options.metrics?.poolSize.set({ pool }, Number(size));
    this.#options.metrics?.poolFree.set({ pool }, Number(free));
    this.#options.metrics?.poolPromised.set({ pool }, Number(promised));
    const known = { at, size, left: left({ size, free, promised }, this.#options) };
    this.#known.set(pool, known);
    return known;
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
