import { parseManagedNqn } from "../nvme/nqn.ts";
import type { ManagedSession } from "../nvme/sysfs.ts";
import { messageOf, Unreachable } from "../runtime/errors.ts";
import type { AttachmentHere } from "./cluster.ts";
import type { StagingParts } from "./parts.ts";
import type { Cancellable } from "./volume.ts";

/** An administrator names a node here, on the PV, to say that a dead session of the volume there is not waited for. */
export const letGoAnnotation = "rds.csi.srvlab.io/let-go";

/** Why a session that is not live may be ended, with whatever was written and has not reached the server. */
export type Permission = "detached" | "old generation" | "administrator";

/** Which of the rules lets a dead session go; if none, what they were answered with. */
export type Answer = { permission: Permission } | { permission: undefined; unknown: string[] };

/**
 * Asks Kubernetes whether a session that is not live is still needed. It is not when this node has no attachment of the
 * volume, when the attachment has moved to a newer generation of the export, or when an administrator says so.
 */
export async function permissionFor(
  parts: StagingParts,
  session: Pick<ManagedSession, "volumeId" | "nqn" | "generation">,
  { pv, signal }: { pv: string | undefined } & Cancellable,
): Promise<Answer> {
  const { cluster, nodeId } = parts;
  if (!cluster) return { permission: undefined, unknown: ["this node has no Kubernetes to ask"] };
  const { volumeId } = session;
  const unknown: string[] = [];
  const asked = async <T>(question: Promise<T>): Promise<T | undefined> => {
    try {
      return await question;
    } catch (error) {
      if (signal?.aborted) throw error;
      unknown.push(`Kubernetes was asked and gave no answer (${messageOf(error)})`);
      return undefined;
    }
  };
  const attachments = await asked(cluster.attachmentsHere({ signal }));
  const byAttachment = attachments && permissionBy(attachments, session, parts.prefix);
  if (byAttachment) return { permission: byAttachment };
  const named = await asked(cluster.annotation({ volumeId, pv }, letGoAnnotation, { signal }));
  if (named !== undefined && nodeId !== undefined && named === nodeId) return { permission: "administrator" };
  return { permission: undefined, unknown };
}

/** What the attachments of this node say: a pure decision. An attachment that was told no NQN yet says nothing. */
export function permissionBy(
  attachments: readonly AttachmentHere[],
  { volumeId, generation }: Pick<ManagedSession, "volumeId" | "generation">,
  prefix: string,
): Permission | undefined {
  const ours = attachments.filter((attachment) => attachment.volumeId === volumeId);
  if (ours.length === 0) return "detached";
  const isNewer = ({ nqn }: AttachmentHere) => {
    const told = nqn === undefined ? undefined : parseManagedNqn(prefix, nqn);
    return told?.volumeId === volumeId && told.generation > generation;
  };
  return ours.every(isNewer) ? "old generation" : undefined;
}

/** The refusal to touch a session that is not live, with the ways to have it let go. */
export function notLive(
  parts: StagingParts,
  session: ManagedSession,
  { what, pv, unknown = [] }: { what: string; pv: string | undefined; unknown?: readonly string[] },
): Unreachable {
  const states = session.controllers.map(({ name, state }) => `${name} ${state}`).join(", ") || "no controller";
  const name = pv ?? session.volumeId;
  const attachments =
    "kubectl get volumeattachments -o jsonpath='{range .items[?(@.spec.source.persistentVolumeName==" +
    `"${name}")]}{.metadata.name} {.spec.nodeName}{"\\n"}{end}'`;
  return new Unreachable(
    `the NVMe session of ${session.nqn} is not live (${states}): ${what} would hang until it is. The kernel reconnects by ` +
      "itself; look at the network to the server, and whether it exports the volume. It is tried again. A session that is " +
      "dead for good is let go, and what was written and has not reached the server is lost, as soon as one of these is " +
      `true: the volume is not attached to this node any more ('${attachments}' shows no line of it; of a node whose ` +
      "workload is known to be stopped: 'kubectl delete volumeattachment <name>'); its attachment was moved to a newer " +
      "generation of the export, as after a fence; or an administrator says so: 'kubectl annotate pv " +
      `${name} ${letGoAnnotation}=${parts.nodeId ?? "<name of this node>"}'${
        unknown.map((each) => `. ${each}`).join("")
      }`,
  );
}
