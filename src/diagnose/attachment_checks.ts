import { nodePath } from "../kube/objects.ts";
import { parseManagedNqn } from "../nvme/nqn.ts";
import type { ManagedSession } from "../nvme/sysfs.ts";
import { NotFound } from "../runtime/errors.ts";
import type { AttachmentHere } from "../staging/cluster.ts";
import { type Look, problemsOf } from "../staging/condition.ts";
import { described, usersOf } from "../staging/users.ts";
import { tracesOf } from "../staging/uses.ts";
import { type Check, type Finding, ok } from "./check.ts";
import { found } from "./meanings.ts";
import type { NodeWorld } from "./node_world.ts";

/** What Kubernetes wants here, against what is here. */
export function attachmentChecks(world: NodeWorld): Check[] {
  return [
    { name: "node", about: "whether Kubernetes knows the node", run: (signal) => node(world, signal) },
    {
      name: "attachments",
      about: "what Kubernetes has attached here, against sessions and records",
      run: (signal) => attachments(world, signal),
    },
  ];
}

async function node({ config, kube }: NodeWorld, signal: AbortSignal): Promise<Finding[]> {
  const api = await kube();
  if (!api) return [ok("there is no Kubernetes (--standalone)")];
  const name = config.nodeId as string | undefined;
  if (name === undefined) throw new Error("the node's name is not known (--node-id)");
  try {
    await api.get(nodePath(name), { signal });
    return [ok(name)];
  } catch (error) {
    if (!(error instanceof NotFound)) throw error;
    return [found("node-unknown", `Kubernetes has no Node '${name}'`)];
  }
}

async function attachments(world: NodeWorld, signal: AbortSignal): Promise<Finding[]> {
  const { sessions, sights } = await world.look(signal);
  const here = await world.attachments(signal);
  const findings = (here ?? []).flatMap((attachment) => ofAttachment(world, attachment, { sessions, sights }));
  for (const session of sessions) findings.push(...await ofSession(world, session, { here, sights, signal }));
  if (findings.length > 0) return findings;
  return [ok(here ? `${here.length}, all as they should be` : "without Kubernetes there are none")];
}

function ofAttachment(
  { config }: NodeWorld,
  { volumeId, nqn, attached, deleting }: AttachmentHere,
  { sessions, sights }: Look,
): Finding[] {
  const prefix = config.managedNqnPrefix;
  if (nqn !== undefined && !parseManagedNqn(prefix, nqn)) {
    return [found("prefix-differs", `${volumeId} is attached as ${nqn}, which does not begin with ${prefix}`)];
  }
  if (!attached || deleting) return [];
  const own = sessions.filter((session) => session.volumeId === volumeId);
  if (own.length === 0) {
    const sight = sights.get(volumeId);
    const isTold = sight !== undefined && problemsOf(sight).some(({ kind }) => kind === "session_gone");
    return isTold ? [] : [found("attached-not-connected", `${volumeId} is attached to this node and not connected`)];
  }
  if (nqn === undefined || own.some((session) => session.nqn === nqn)) return [];
  const old = own.map((session) => session.nqn).join(", ");
  return [found("generation-old", `${volumeId} is attached as ${nqn}, and this node has ${old}`)];
}

/** A session that nobody has asked for, and who uses it all the same. */
async function ofSession(
  world: NodeWorld,
  { volumeId, nqn }: ManagedSession,
  { here, sights, signal }: {
    here: readonly AttachmentHere[] | undefined;
    sights: Look["sights"];
    signal: AbortSignal;
  },
): Promise<Finding[]> {
  if (here?.some((attachment) => attachment.volumeId === volumeId)) return [];
  const isNoted = sights.get(volumeId)?.record !== undefined;
  if (!here && isNoted) return [];
  const parts = world.parts();
  const users = await usersOf(parts, await tracesOf(parts, volumeId, { signal }), { signal })
    .then((users) => users.map(described).join(", ") || "nobody", () => "it is not known whom");
  const code = isNoted ? "connected-not-attached" : "session-without-volume";
  return [found(code, `${nqn} (${volumeId}) is connected and not attached to this node; it is used by ${users}`)];
}
