import type { Change } from "./client.ts";
import type { PersistentVolume, VolumeAttachment } from "./objects.ts";

/** What a VolumeAttachment was like after a change. */
interface Noted {
  /** Milliseconds of whatever clock. */
  at: number;
  version: string;
  name: string;
  node: string;
  pv: string;
  /** The volume's id as the driver has put it into the publish context. */
  id: string | undefined;
  state: "waits" | "attached" | "gone";
  /** Its deletion has been asked for. */
  isLeaving: boolean;
  /** NQN that the node was told, and the one that RouterOS had then. */
  nqn: string | undefined;
  present: string | undefined;
}

/** More nodes had a volume at once than may have it. */
export interface Conflict {
  volume: string;
  /** The resourceVersion from which on it was so. */
  version: string;
  nodes: string[];
  /** How many nodes may have the volume. */
  limit: 1 | 2;
}

/** An attachment that nobody stands in the way of, and that does not come, or does not go. */
export interface Stuck {
  name: string;
  node: string;
  volume: string;
  why: "does not come" | "does not go";
  /** Milliseconds since anything about the volume's attachments changed. */
  waited: number;
}

/** A node that was told another NQN than RouterOS had for the volume at that moment. */
export interface Mismatch {
  name: string;
  volume: string;
  version: string;
  told: string;
  present: string | undefined;
}

/** Keeps the history of the VolumeAttachments and judges it. It knows nothing but what it is told, in order. */
export class Audit {
  readonly #history: Noted[] = [];
  /** Of PVs that are there or were: their volume and how many nodes may have it. */
  readonly #volumes = new Map<string, { handle: string; limit: 1 | 2 }>();

  /** Notes a PersistentVolume; it is remembered when it is gone. */
  volumeSeen({ metadata, spec }: PersistentVolume): void {
    if (!spec.csi) return;
    const limit = spec.accessModes.includes("ReadWriteMany") ? 2 : 1;
    this.#volumes.set(metadata.name, { handle: spec.csi.volumeHandle, limit });
  }

  /** Notes a change. @param seen.present the NQN that RouterOS has now for a volume */
  changed(
    { type, object: { metadata, spec, status } }: Change<VolumeAttachment>,
    seen: { at: number; present?: (volume: string) => string | undefined },
  ): void {
    const { volume_id: id, nvme_nqn: nqn } = status?.attachmentMetadata ?? {};
    const pv = spec.source.persistentVolumeName ?? "";
    this.#history.push({
      at: seen.at,
      version: metadata.resourceVersion ?? "",
      name: metadata.name,
      node: spec.nodeName,
      pv,
      id,
      state: type === "DELETED" ? "gone" : status?.attached ? "attached" : "waits",
      isLeaving: metadata.deletionTimestamp !== undefined,
      nqn,
      present: seen.present?.(id ?? this.#volumes.get(pv)?.handle ?? pv),
    });
  }

  /** What is there now: the version of each attachment. */
  get versions(): Map<string, string> {
    const versions = new Map<string, string>();
    for (const { name, version, state } of this.#history) {
      if (state === "gone") versions.delete(name);
      else versions.set(name, version);
    }
    return versions;
  }

  /** Every time that a volume came to have more nodes than it may, at any version. */
  conflicts(): Conflict[] {
    const conflicts: Conflict[] = [];
    const excess = new Map<string, number>();
    for (const { noted, volume, all } of this.#replay()) {
      const nodes = nodesOf(all.filter(({ state }) => state === "attached"));
      const limit = this.#limitOf(all);
      if (nodes.length > limit && nodes.length > (excess.get(volume) ?? 0)) {
        conflicts.push({ volume, version: noted.version, nodes, limit });
      }
      excess.set(volume, nodes.length > limit ? nodes.length : 0);
    }
    return conflicts;
  }

  /**
   * What has not moved for `patience` milliseconds although it could: the oldest of those that wait for a volume that has
   * room for one more node, and whatever is to be deleted and stays.
   */
  stuck(patience: number, now: number): Stuck[] {
    const last = new Map<string, { all: Noted[]; shape: string; since: number }>();
    for (const { noted, volume, all } of this.#replay()) {
      const shape = all.map(({ name, state, isLeaving }) => `${name} ${state} ${isLeaving}`).join();
      const before = last.get(volume);
      last.set(volume, { all, shape, since: before?.shape === shape ? before.since : noted.at });
    }
    return [...last].flatMap(([volume, { all, since }]) => {
      const waited = now - since;
      if (waited < patience) return [];
      const room = Math.max(0, this.#limitOf(all) - nodesOf(all.filter(({ state }) => state === "attached")).length);
      const coming = all.filter(({ state, isLeaving }) => state === "waits" && !isLeaving).slice(0, room);
      const leaving = all.filter(({ isLeaving }) => isLeaving);
      return [
        ...coming.map(({ name, node }) => ({ name, node, volume, why: "does not come" as const, waited })),
        ...leaving.map(({ name, node }) => ({ name, node, volume, why: "does not go" as const, waited })),
      ];
    });
  }

  /** Grants whose NQN was not the one that RouterOS had for the volume when they appeared. */
  mismatches(): Mismatch[] {
    const attached = new Set<string>();
    return [...this.#replay()].flatMap(({ noted: { name, state, version, nqn, present }, volume }) => {
      const isGrant = state === "attached" && !attached.has(name);
      if (state === "attached") attached.add(name);
      else attached.delete(name);
      return isGrant && nqn !== undefined && nqn !== present ? [{ name, volume, version, told: nqn, present }] : [];
    });
  }

  /** What happened to a volume, a line a change, for people. */
  story(volume: string): string[] {
    return [...this.#replay()].filter((step) => step.volume === volume).map(({ noted }) => {
      const { at, version, name, node, state, isLeaving, nqn, present } = noted;
      const nqns = nqn ? `, told ${nqn}, RouterOS has ${present ?? "none"}` : "";
      return `${at} v${version} ${name} on ${node}: ${state}${isLeaving ? ", leaving" : ""}${nqns}`;
    });
  }

  /** The history again, change by change: which volume it was about, and all its attachments after it, the oldest first. */
  *#replay(): Generator<{ noted: Noted; volume: string; all: Noted[] }> {
    const now = new Map<string, Map<string, Noted>>();
    for (const noted of this.#history) {
      const volume = this.#volumeOf(noted);
      const attachments = now.get(volume) ?? new Map<string, Noted>();
      now.set(volume, attachments);
      if (noted.state === "gone") attachments.delete(noted.name);
      else attachments.set(noted.name, noted);
      yield { noted, volume, all: [...attachments.values()] };
    }
  }

  /** The same through all of an attachment's life, whatever was known of it when. */
  #volumeOf({ pv, name }: Noted): string {
    const told = () => this.#history.find((noted) => noted.name === name && noted.pv === pv && noted.id)?.id;
    return this.#volumes.get(pv)?.handle ?? told() ?? pv;
  }

  /** The least that any of the PVs allows; those that nobody knows allow one node. */
  #limitOf(all: readonly Noted[]): 1 | 2 {
    return all.length > 0 && all.every(({ pv }) => this.#volumes.get(pv)?.limit === 2) ? 2 : 1;
  }
}

function nodesOf(all: readonly Noted[]): string[] {
  return [...new Set(all.map(({ node }) => node))];
}
