/** How many nodes may have a volume at once: `single` (ReadWriteOnce and its kin) or `multi` (ReadWriteMany, block). */
export type AccessMode = "single" | "multi";

/** A node that has a volume. */
export interface Holder {
  nodeId: string;
  mode: AccessMode;
}

/** The answer to a node that wants a volume. */
export type Decision =
  | { kind: "grant" }
  | { kind: "already" }
  | { kind: "refuse"; why: string };

/** A live migration has two nodes at once, nothing needs more. */
const MOST_HOLDERS = { single: 1, multi: 2 } as const;

/** Whether a node may have the volume now. Pure: the same holders and the same request, the same answer. */
export function decide(holders: readonly Holder[], request: Holder): Decision {
  if (holders.some((holder) => holder.nodeId === request.nodeId)) return { kind: "already" };
  const others = holders.map((holder) => holder.nodeId).join(" and ");
  const single = request.mode === "single" || holders.some((holder) => holder.mode === "single");
  if (holders.length < MOST_HOLDERS[single ? "single" : "multi"]) return { kind: "grant" };
  return {
    kind: "refuse",
    why: single
      ? `it is attached to ${others}, and its access mode allows one node at a time: end the pods there that use it, ` +
        "and wait until it is detached"
      : `it is attached to ${others}, and two nodes at once (a live migration) are the most: wait until one of them lets go`,
  };
}
