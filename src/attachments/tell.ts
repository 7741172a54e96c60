import type { About, Events } from "../kube/events.ts";
import type { Reason } from "../kube/reasons.ts";
import type { View } from "./view.ts";

/** Where people look for news of a volume: its claim; its PV where it has none; undefined where both are gone. */
export function aboutOf(view: Pick<View, "pv">, volumeId: string): About | undefined {
  const pv = view.pv(volumeId);
  if (!pv) return undefined;
  if (!pv.claim) return { apiVersion: "v1", kind: "PersistentVolume", name: pv.name };
  const { namespace, name, uid } = pv.claim;
  return { apiVersion: "v1", kind: "PersistentVolumeClaim", namespace, name, ...(uid ? { uid } : {}) };
}

/** Tells of a volume in an event. */
export type Tell = (volumeId: string, reason: Reason, message: string) => void;

/** What tells people of volumes where they look for it. */
export function tellerOf(events: Pick<Events, "post">, view: Pick<View, "pv">): Tell {
  return (volumeId, reason, message) => {
    const about = aboutOf(view, volumeId);
    if (about) events.post({ about, reason, message });
  };
}

/** What the follower of migrations tells. */
export type MigrationReason = Extract<
  Reason,
  "MigrationStarted" | "MigrationCompleted" | "MigrationFailed" | "MigrationTimeout" | "AttachmentConflict"
>;
