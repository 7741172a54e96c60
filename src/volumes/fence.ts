import { nqnOf, parseManagedNqn } from "../nvme/nqn.ts";
import type { Disk } from "../rds/decode.ts";
import type { Found } from "../rds/disk_scripts.ts";
import type { Disks } from "../rds/disks.ts";
import { Busy, Cancelled, messageOf, TimedOut, Unreachable } from "../runtime/errors.ts";
import { foreign, isOurs, type Realm, targetOf } from "./ownership.ts";

/** The NQNs before and after. */
export interface Fenced {
  from: string;
  to: string;
}

/** What {@linkcode fence} works with. */
export interface FenceOptions extends Realm {
  disks: Pick<Disks, "get" | "fence">;
  signal?: AbortSignal | undefined;
}

/**
 * Moves the export of a volume to the next generation of its NQN, which cuts off whoever was connected (Linux' target
 * refuses their reconnections for ever), and proves by what RouterOS shows then that it is done.
 * @param held the volume, and the NQN that the node was given, where it is known
 * @returns undefined when RouterOS has no such volume, or when the node's generation is over already
 * @throws {Unreachable} where it is not proven
 */
export async function fence(
  held: { id: string; heldNqn: string | undefined },
  options: FenceOptions,
): Promise<Fenced | undefined> {
  const { disks, signal } = options;
  const { id } = held;
  const disk = await disks.get(id, signal).catch((error) => notCut(id, error));
  if (!disk) return undefined;
  if (!isOurs(disk, options)) throw foreign(disk);
  const to = nextNqn(disk, held.heldNqn, options.prefix);
  if (to === undefined) return undefined;
  const nqns = { from: disk.nqn, to };
  const found = await disks.fence(targetOf(id, options), nqns, signal).catch((error) => notCut(id, error, to));
  if (!isDone(found, to, options)) notCut(id, new Error(`RouterOS shows ${shown(found)} after it`), to);
  return nqns;
}

/** The generation after all that was ever seen; undefined when that of the node is over, and its export with it. */
function nextNqn(disk: Disk, heldNqn: string | undefined, prefix: string): string | undefined {
  const present = parseManagedNqn(prefix, disk.nqn)?.generation ?? 0;
  const named = heldNqn === undefined ? undefined : parseManagedNqn(prefix, heldNqn);
  const held = named?.volumeId === disk.slot ? named.generation : undefined;
  if (held !== undefined && held < present && disk.exported) return undefined;
  // A RouterOS that was put back to an older backup may show a generation that the node had long before.
  return nqnOf(prefix, disk.slot, Math.max(present, held ?? 0) + 1);
}

function isDone({ disks }: Found, to: string, realm: Realm): boolean {
  const [disk, ...others] = disks;
  return disk !== undefined && others.length === 0 && isOurs(disk, realm) && disk.nqn === to && disk.exported;
}

function shown({ disks }: Found): string {
  const rows = disks.map(({ slot, nqn, exported }) =>
    `'${slot}' ${exported ? "" : "not "}exported as ${nqn || "none"}`
  );
  return rows.join(", ") || "no disk of it";
}

/** Whatever the reason, the caller must neither give up nor free the volume. */
function notCut(id: string, error: unknown, to?: string): never {
  if ([Busy, Cancelled, TimedOut].some((kind) => error instanceof kind)) throw error;
  const disk = `[find where slot="${id}"]`;
  const steps = ["nvme-tcp-export=no", `nvme-tcp-server-nqn="${to}"`, "nvme-tcp-export=yes"];
  const byHand = to && `do it by hand (${steps.map((step) => `'/disk/set ${disk} ${step}'`).join(", then ")}), or `;
  throw new Unreachable(
    `the node that may still write to ${id} is not cut off: ${
      messageOf(error)
    }. No other node gets the volume until that ` +
      `works; it is tried again. If it keeps failing ${
        byHand ?? ""
      }look at '/disk print detail where slot="${id}"', or ` +
      "run the controller with --fence=off, which risks that this node and the next one write to the volume at once",
    { cause: error },
  );
}
