import { InvalidArgument } from "../runtime/errors.ts";

/** Characters of a disk's comment. */
const LONGEST = 128;

const clusterId = "[A-Za-z0-9][A-Za-z0-9._-]{0,62}";
const wholeId = new RegExp(`^${clusterId}$`);
const commented = new RegExp(`^rds-csi(?: cluster=(${clusterId}))?(?: (?!cluster=)(\\S.*))?$`);

/** Checks a cluster's id. @throws {InvalidArgument} when it could not be told from what else stands in a comment */
export function checkClusterId(id: string): string {
  if (wholeId.test(id)) return id;
  throw new InvalidArgument(
    `'${id}' is no cluster id: give 1 to 63 letters, digits, '.', '_' and '-', a letter or digit first, for example the ` +
      "UID of the namespace kube-system",
  );
}

/**
 * What is written on a new disk: `rds-csi cluster=<id> <namespace>/<claim>`. A claim that is too long is cut, the cluster
 * never; no claim's name can pass for a cluster.
 */
export function commentFor(
  { clusterId, claim }: { clusterId?: string | undefined; claim?: string | undefined },
): string {
  const cluster = clusterId && `cluster=${clusterId}`;
  const plainClaim = claim?.replaceAll(/[^\x21-\x7e]|=/g, "?");
  return ["rds-csi", cluster, plainClaim].filter(Boolean).join(" ").slice(0, LONGEST);
}

/** The cluster that made a disk, by its comment; undefined where none is named. */
export function clusterOf(comment: string): string | undefined {
  return commented.exec(comment)?.[1];
}

/** The claim (`namespace/name`, perhaps cut) that a disk was made for, by its comment. */
export function claimOf(comment: string): string | undefined {
  return commented.exec(comment)?.[2];
}
