import { InvalidArgument, OutOfRange } from "../runtime/errors.ts";

/** Bytes; 0 where nothing is asked (CSI 1.13, `CapacityRange`). */
export interface SizeRange {
  required: bigint;
  limit: bigint;
}

const MIB = 1n << 20n;
/** The least size, and what is made when none is asked: 1 GiB. */
export const LEAST_SIZE = 1n << 30n;
/** A file's size must be whole blocks for both kinds of file systems. */
const BLOCK = 4096n;

/**
 * The exact size in bytes for a new volume: what is required, at least 1 GiB, rounded up to whole MiB where the limit
 * leaves room.
 * @throws {InvalidArgument} for a range that contradicts itself
 * @throws {OutOfRange} when no size lies within
 */
export function sizeForNew(range: SizeRange): bigint {
  return within(range, range.required > LEAST_SIZE ? range.required : LEAST_SIZE);
}

function check({ required, limit }: SizeRange): void {
  if (required < 0n || limit < 0n) throw new InvalidArgument("the capacity range is negative: give bytes, 0 or more");
  if (limit > 0n && required > limit) {
    throw new InvalidArgument(
      `required_bytes ${required} is over limit_bytes ${limit}: lower the one or raise the other`,
    );
  }
}

function within(range: SizeRange, wanted: bigint): bigint {
  check(range);
  const sizes = [MIB, BLOCK].map((unit) => roundUp(wanted, unit));
  const size = sizes.find((size) => range.limit === 0n || size <= range.limit);
  if (size !== undefined) return size;
  throw new OutOfRange(
    `limit_bytes ${range.limit} leaves no room for a volume of ${wanted} bytes: volumes have at least ${LEAST_SIZE} ` +
      `bytes, in steps of ${BLOCK}; raise the limit`,
  );
}

/** Whether a volume of that many bytes is what a range asks for. */
export function sizeFits(size: bigint, { required, limit }: SizeRange): boolean {
  return size >= required && (limit === 0n || size <= limit);
}

function roundUp(bytes: bigint, unit: bigint): bigint {
  return (bytes + unit - 1n) / unit * unit;
}
