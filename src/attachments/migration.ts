import type { Attachment } from "./decide.ts";

/** A live migration: two nodes have one ReadWriteMany volume. The older holder is the source. */
export interface Migration {
  source: { uid: string; nodeId: string };
  target: { uid: string; nodeId: string };
  /** When the target was given the volume, by this machine's clock: milliseconds. */
  start: number;
  /** Milliseconds that it may take before it is told that it takes too long. */
  timeout: number;
}

/** How a migration ended: the source left, or the target. */
export type Ending = "completed" | "failed";

/** The two oldest holders, the oldest first; undefined while there are fewer. */
export function pairOf<A extends Attachment>(holders: readonly A[]): { source: A; target: A } | undefined {
  const [source, target] = holders;
  return source && target && { source, target };
}

/**
 * What became of a migration when these are the holders now.
 * @returns undefined while both still have the volume
 */
export function endingOf(migration: Migration, holders: readonly Attachment[]): Ending | undefined {
  const has = ({ uid }: { uid: string }) => holders.some((holder) => holder.uid === uid);
  if (!has(migration.target)) return "failed";
  return has(migration.source) ? undefined : "completed";
}
