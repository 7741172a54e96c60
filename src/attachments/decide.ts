/** How many nodes may have a volume at once: `single` (ReadWriteOnce and its kin) or `multi` (ReadWriteMany, block). */
export type AccessMode = "single" | "multi";

/** One node's attachment of a volume, as a watch has shown it. */
export interface Attachment {
  /** Unique for ever. */
  uid: string;
  nodeId: string;
  /** The node has it. While it is not, it is a claim: a grant for it may have been answered and not have appeared yet. */
  attached: boolean;
  /** It is on its way out. */
  deleting: boolean;
  /** When it was made, by the API server's clock: milliseconds, mostly whole seconds. Decides the order, never safety. */
  created: number;
  /** When it was first seen, by a clock of this process that only goes on: milliseconds. */
  seen: number;
}

/** A node that wants a volume. */
export interface Request {
  nodeId: string;
  mode: AccessMode;
}

/** The answer. `wait`: the same request may be granted later without anybody letting go. */
export type Decision =
  | { kind: "grant" }
  | { kind: "already" }
  | { kind: "wait"; why: string }
  | { kind: "refuse"; why: string };

/** A live migration has two nodes at once; nothing needs more. */
const MOST = { single: 1, multi: 2 } as const;

/**
 * Milliseconds after which a grant that was answered has appeared, or never will: the API server gives a request 60 s, and
 * the attacher's patch follows the answer. What is decided so is decided on a list from a quorum.
 */
export const SETTLED = 150_000;

/**
 * Whether a node may have the volume now. A pure function of what the watch has shown, so that two replicas and one that
 * was restarted decide alike.
 *
 * With fewer others than the volume may have nodes, the grant is safe at once, however far each watch is behind: of two
 * attachments the later one is never seen without the earlier one. With more, nobody knows which claim was granted
 * already; then the oldest claims win, once all claims have been seen for so long that an earlier grant would show.
 */
export function decide(attachments: readonly Attachment[], request: Request, now: number): Decision {
  const own = attachments.find(({ nodeId }) => nodeId === request.nodeId);
  if (!own) return { kind: "wait", why: "its attachment is not seen yet: it is granted once it is" };
  if (own.deleting) return { kind: "wait", why: "its attachment is being deleted: it is granted to the next one" };
  if (own.attached) return { kind: "already" };
  const others = attachments.filter((other) => other !== own);
  const most = MOST[request.mode];
  if (others.length < most) return { kind: "grant" };
  const holders = others.filter(({ attached }) => attached);
  if (holders.length >= most) return { kind: "refuse", why: whoHasIt(holders, request.mode) };
  const claims = attachments.filter(({ attached }) => !attached).sort(byAge);
  const rank = holders.length + claims.indexOf(own);
  if (rank >= most) return { kind: "refuse", why: `${namesOf(claims.slice(0, rank))} asked for it earlier` };
  const settled = claims.every(({ seen }) => now - seen >= SETTLED);
  if (settled) return { kind: "grant" };
  return {
    kind: "wait",
    why: `${namesOf(claims)} asked for it almost at once: it is granted to ${own.nodeId} when no earlier grant has ` +
      `appeared within ${SETTLED / 1000} s`,
  };
}

/** Sorts the older of two attachments first, everywhere alike: by what the API server wrote, not by when it was seen. */
export function byAge(a: Attachment, b: Attachment): number {
  return a.created - b.created || (a.uid < b.uid ? -1 : 1);
}

function namesOf(attachments: readonly Attachment[]): string {
  return attachments.map(({ nodeId }) => nodeId).join(" and ");
}

function whoHasIt(holders: readonly Attachment[], mode: AccessMode): string {
  if (mode === "multi") {
    return `it is attached to ${
      namesOf(holders)
    }, and two nodes at once (a live migration) are the most: wait until one ` +
      "of them lets go";
  }
  return `it is attached to ${
    namesOf(holders)
  }, and its access mode allows one node at a time: end the pods there that ` +
    "use it, and wait until it is detached";
}
