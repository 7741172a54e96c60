import { infoOf, type Mount, resolved } from "../mounts/mountinfo.ts";
import { loopsOver, nodesOfKubelet } from "./block_users.ts";
import type { StagingParts } from "./parts.ts";
import type { StagingRecord } from "./records.ts";
import { publishedNodes, type Traces } from "./uses.ts";
import type { Cancellable } from "./volume.ts";

/** Who or what uses a volume on this node. */
export type User =
  | { kind: "mount"; mount: Mount }
  | { kind: "node"; path: string }
  /** A device built on the volume's: the kernel holds on to it. */
  | { kind: "device"; name: string; over: string }
  | { kind: "staging"; path: string };

/** For people. */
export function described(user: User): string {
  if (user.kind === "mount") return `a mount at ${user.mount.target}`;
  if (user.kind === "node") return `a device node at ${user.path}`;
  return user.kind === "device" ? `${user.name}, built on ${user.over}` : `staged at ${user.path}`;
}

/**
 * Who uses a volume on this node, the staging path included, as far as can be seen without touching its device: mounts
 * of it and of its partitions in any mount namespace that can be read, devices and loop devices built on it, device nodes
 * that were published or that the kubelet has, another staging path.
 * @throws {FailedPrecondition} when the volume's record cannot be used: then not all can be seen
 * @throws {Unreachable} when one of these cannot be looked at: what cannot be proven free is not free
 */
export async function usersOf(
  parts: StagingParts,
  traces: Traces,
  options: { stagingPath?: string | undefined } & Cancellable,
): Promise<User[]> {
  if (traces.unusable) throw traces.unusable;
  const mounts = (await parts.mounts.anywhere(options)).filter(traces.isOurs);
  const nodes = new Set([
    ...await publishedNodes(traces.record),
    ...(await nodesOfKubelet(parts, traces.owns, options)).map(({ path }) => path),
  ]);
  const loops = await loopsOver(parts, traces, options);
  return [
    ...mounts.map((mount) => ({ kind: "mount" as const, mount })),
    ...holdersOf(traces),
    ...loops.map(({ name, backing }) => ({ kind: "device" as const, name, over: backing })),
    ...[...nodes].map((path) => ({ kind: "node" as const, path })),
    ...await otherStaging(traces.record, options.stagingPath),
  ];
}

/** Those of {@linkcode usersOf} that are not the mount at the staging path. */
export async function othersOf(
  parts: StagingParts,
  traces: Traces,
  options: { stagingPath: string | undefined } & Cancellable,
): Promise<User[]> {
  const { stagingPath } = options;
  const staging = stagingPath === undefined ? undefined : await resolved(stagingPath);
  const users = await usersOf(parts, traces, options);
  return users.filter((user) => user.kind !== "mount" || user.mount.target !== staging);
}

function holdersOf({ sessions }: Traces): User[] {
  const devices = sessions.flatMap(({ namespaces }) => namespaces).flatMap((each) => [each, ...each.partitions]);
  return devices.flatMap(({ name: over, holders }) => holders.map((name) => ({ kind: "device" as const, name, over })));
}

/** A staged block volume leaves nothing at its staging path but the folder itself, which goes when it is unstaged. */
async function otherStaging(record: StagingRecord | undefined, stagingPath: string | undefined): Promise<User[]> {
  if (record?.kind !== "block" || stagingPath === undefined) return [];
  if (await resolved(record.stagingPath) === await resolved(stagingPath)) return [];
  return await infoOf(record.stagingPath) ? [{ kind: "staging", path: record.stagingPath }] : [];
}
