import { InvalidArgument } from "../runtime/errors.ts";

/** Bytes of an NQN (NVMe Base Specification §4.7: 223 and a terminating zero). */
const maximumBytes = 223;
/** A UUID, `.g` and the nine digits of the highest generation. */
const roomForId = 36 + 2 + 9;
const highestGeneration = 999_999_999;
/** What stands after the colon in the names of the volumes that diskless machines run from. */
const foreignNames = ["nixos-"];

const idBody = "[0-9a-f]{28}|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}";

/** Volume ids that this driver makes, and those of the Go driver rds-csi: `pvc-` and 28 hex digits or a UUID. */
export const volumeIdPattern: RegExp = new RegExp(`^pvc-(?:${idBody})$`);

const remainderPattern = new RegExp(`^(${idBody})(?:\\.g([1-9][0-9]{0,8}))?$`);

/** Whether an id has the form of a volume of ours. */
export function isVolumeId(id: string): boolean {
  return volumeIdPattern.test(id);
}

function whyNotManaged(prefix: string): string | undefined {
  if (prefix === "") return "it is not set";
  if (!/^[!-~]+$/.test(prefix) || /["'`\\]/.test(prefix)) {
    return "it holds a character other than printable ASCII without blanks, quotes and backslashes";
  }
  if (!prefix.startsWith("nqn.")) return "it does not begin with 'nqn.'";
  const colon = prefix.lastIndexOf(":");
  const name = prefix.slice(colon + 1).toLowerCase();
  if (colon < 0 || name.length < 3) return "it needs a colon with at least three characters after it";
  if (prefix.length + roomForId > maximumBytes) {
    return `it is longer than the ${maximumBytes - roomForId} bytes that leave room for a volume's id`;
  }
  const foreign = foreignNames.find((other) => other.startsWith(name) || name.startsWith(other));
  return foreign && `it would match volumes named '${foreign}…', which diskless machines run from`;
}

/**
 * Checks `CSI_MANAGED_NQN_PREFIX`: where the NQN of a volume's own part begins. Nothing outside of it is ever touched.
 * @returns the prefix itself
 * @throws {InvalidArgument} with what is wrong with it and what a right one looks like
 */
export function validateManagedPrefix(prefix: string): string {
  const why = whyNotManaged(prefix);
  if (why === undefined) return prefix;
  throw new InvalidArgument(
    `the managed NQN prefix '${prefix}' is refused: ${why}. Set CSI_MANAGED_NQN_PREFIX, the same for controller and ` +
      "nodes, to what the NQNs of this cluster's volumes begin with, for example 'nqn.2000-02.com.mikrotik:pvc-'",
  );
}

/**
 * The NQN of a volume: prefix, the id without its `pvc-`, and `.g<n>` after the n-th fence.
 * @throws {InvalidArgument} when the id or the generation is not of our form
 */
export function nqnOf(prefix: string, volumeId: string, generation = 0): string {
  if (!isVolumeId(volumeId)) {
    throw new InvalidArgument(
      `'${volumeId}' is no volume of this driver: its ids are pvc- and 28 hex digits or a UUID`,
    );
  }
  if (!Number.isInteger(generation) || generation < 0 || generation > highestGeneration) {
    throw new InvalidArgument(`generation ${generation} of ${volumeId} is not a whole number to ${highestGeneration}`);
  }
  return prefix + volumeId.slice("pvc-".length) + (generation > 0 ? `.g${generation}` : "");
}

/** Which volume, and which generation of its export, an NQN names; `undefined` when it is not ours, to the letter. */
export function parseManagedNqn(prefix: string, nqn: string): { volumeId: string; generation: number } | undefined {
  if (!nqn.startsWith(prefix)) return undefined;
  const [, body, generation] = remainderPattern.exec(nqn.slice(prefix.length)) ?? [];
  return body === undefined ? undefined : { volumeId: `pvc-${body}`, generation: Number(generation ?? 0) };
}
