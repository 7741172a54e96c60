import { whyNotIdle } from "../mounts/exclusive_open.ts";
import { isNodeOf } from "../nvme/session.ts";
import type { ManagedSession } from "../nvme/sysfs.ts";
import { Busy, InUse, messageOf } from "../runtime/errors.ts";
import { log } from "../runtime/log.ts";
import type { AttachmentHere } from "./cluster.ts";
import type { Look } from "./condition.ts";
import { letGo } from "./let_go.ts";
import type { Guard } from "./mending.ts";
import type { StagingParts } from "./parts.ts";
import { unstage } from "./unstage.ts";
import { described, othersOf } from "./users.ts";
import { tracesOf } from "./uses.ts";

/** Milliseconds between the two looks that must both show that nobody needs a session. */
export const betweenLooks = 30_000;

/** Milliseconds between two questions to Kubernetes while the storage server is away and all sessions are needed. */
const longestPause = 300_000;

export interface CleaningOptions {
  guard: Guard;
  signal?: AbortSignal | undefined;
}

/**
 * Ends the sessions that nobody needs any more: those whose unstaging an earlier life of the agent began, those found at
 * the start that are neither attached here nor used, and at any time dead ones that are not attached here any more. All
 * others stay. Foreign NQNs are never among them.
 */
export class Cleaning {
  readonly #parts: StagingParts;
  readonly #options: CleaningOptions;
  /**
   * What was there at the start and is not judged yet: NQNs of sessions, ids of volumes that were being unstaged. Those
   * whose dead session was let go since are among these.
   */
  #found: { sessions: Set<string>; unstaging: Set<string> } | undefined;
  /** When a session was first seen to be needed by nobody, by NQN. */
  readonly #since = new Map<string, number>();
  /** Connected again in the background, and not seen since. */
  readonly #mended = new Set<string>();
  /**
   * The last question to Kubernetes, answered or not, and how long after it the next one comes while no session is live. In
   * an outage of the storage server all nodes ask, and each for all attachments of the cluster.
   */
  #asked = { at: -Infinity, pause: betweenLooks, about: "" };
  readonly #strangers = new Set<string>();
  /** What was last logged, by what it is about: a failure that lasts is not logged each time. */
  readonly #said = new Map<string, string>();

  constructor(parts: StagingParts, options: CleaningOptions) {
    this.#parts = parts;
    this.#options = options;
  }

  /** Sessions found at the start that Kubernetes has not attached here and that are used all the same: they are left alone. */
  get strangers(): number {
    return this.#strangers.size;
  }

  /** A session that was connected again in the background is judged as those found at the start: nobody may need it by now. */
  judgeAlso(nqn: string): void {
    this.#mended.add(nqn);
  }

  /**
   * Goes on with what a look shows. What fails is tried again at the next one.
   * @param now milliseconds, of a clock that only goes forward
   */
  async look({ sessions, sights }: Look, now: number): Promise<void> {
    const unstaging = [...sights].filter(([, { record }]) => record?.unstaging).map(([volumeId]) => volumeId);
    this.#found ??= { sessions: new Set(sessions.map(({ nqn }) => nqn)), unstaging: new Set(unstaging) };
    const here = new Set(sessions.map(({ nqn }) => nqn));
    for (const each of [this.#since, this.#strangers, this.#found.sessions]) {
      for (const nqn of each.keys()) if (!here.has(nqn)) each.delete(nqn);
    }
    for (const volumeId of this.#found.unstaging) {
      await this.#trying(volumeId, () => this.#finish(volumeId));
    }
    const { sessions: found } = this.#found;
    for (const nqn of this.#mended) if (here.has(nqn) && this.#mended.delete(nqn)) found.add(nqn);
    const suspects = sessions.filter(({ nqn, live }) => !live || found.has(nqn));
    for (const { nqn } of sessions) if (!suspects.some((suspect) => suspect.nqn === nqn)) this.#since.delete(nqn);
    const outage = sessions.every(({ live }) => !live);
    if (suspects.length > 0) await this.#trying("attachments", () => this.#judge({ suspects, outage }, now));
  }

  /** Unstages what was being unstaged when the agent ended, or is left of what was let go. */
  async #finish(volumeId: string): Promise<void> {
    const { guard, signal } = this.#options;
    await guard(volumeId, "unstaging", async () => {
      const record = await this.#parts.records.read(volumeId);
      if (!record?.unstaging) return; // The kubelet was faster, or wants it again.
      await unstage(this.#parts, { volumeId, stagingPath: record.stagingPath }, { signal });
      log.info("finished unstaging a volume whose unstaging had begun", { volumeId });
    });
    this.#found?.unstaging.delete(volumeId);
  }

  async #judge(
    { suspects, outage }: { suspects: readonly ManagedSession[]; outage: boolean },
    now: number,
  ): Promise<void> {
    const { cluster } = this.#parts;
    const about = outage ? suspects.map(({ nqn }) => nqn).sort().join(" ") : "";
    const pause = about === this.#asked.about ? this.#asked.pause : betweenLooks;
    if (!cluster || now - this.#asked.at < pause) return;
    this.#asked = { at: now, pause, about };
    const attachments = await cluster.attachmentsHere({ signal: this.#options.signal });
    // While the server is away nothing can be seen to change but this answer; a live session says that it is there.
    const allNeeded = suspects.every((session) => isNeeded(session, attachments));
    this.#asked.pause = outage && allNeeded ? Math.min(longestPause, 2 * pause) : betweenLooks;
    for (const session of suspects) {
      const { nqn } = session;
      if (isNeeded(session, attachments)) {
        this.#found?.sessions.delete(nqn);
        this.#since.delete(nqn);
        continue;
      }
      await this.#trying(nqn, () => this.#suspect(session, now));
    }
  }

  async #suspect(session: ManagedSession, now: number): Promise<void> {
    const { nqn, volumeId, live } = session;
    const users = live ? await this.#users(volumeId) : [];
    if (users.length > 0) return this.#leaveAlone(session, users);
    const since = this.#since.get(nqn) ?? now;
    this.#since.set(nqn, since);
    if (now - since < betweenLooks) return;
    const late = await this.#options.guard(volumeId, "cleaning", () => this.#end(session)).catch(async (error) => {
      if (error instanceof InUse) await this.#tell(session, error.message);
      throw error;
    });
    if (late.length > 0) return this.#leaveAlone(session, late);
    this.#found?.sessions.delete(nqn);
  }

  /** Somebody uses a session that is not attached here: it is reported, and left alone from then on. */
  #leaveAlone({ nqn, volumeId }: ManagedSession, users: string[]): void {
    log.warn("a session of a volume that Kubernetes has not attached here is in use: it is left alone", {
      ...{ volumeId, nqn, users },
      remedy: `when nothing needs it any more, unmount it and 'nvme disconnect -n ${nqn}'`,
    });
    this.#strangers.add(nqn);
    this.#found?.sessions.delete(nqn);
    this.#since.delete(nqn);
  }

  /** Of a session that never comes back people see only that it is not live: they are told once what is in the way. */
  async #tell({ nqn, volumeId }: ManagedSession, message: string): Promise<void> {
    if (this.#said.get(nqn) === message) return;
    const { cluster, nodeId, records, sysfs } = this.#parts;
    if (!await sysfs.session(nqn, { signal: this.#options.signal })) return; // It is gone, and cleaning goes on.
    const record = await records.read(volumeId).catch(() => undefined);
    cluster?.tell({ volumeId, pv: record?.pv }, "ConnectionFailure", `node ${nodeId ?? "(unknown)"}: ${message}`);
  }

  /** Who uses a volume besides its staging mount. */
  async #users(volumeId: string): Promise<string[]> {
    const { signal } = this.#options;
    const traces = await tracesOf(this.#parts, volumeId, { signal });
    return (await othersOf(this.#parts, traces, { stagingPath: traces.record?.stagingPath, signal })).map(described);
  }

  /**
   * All is looked at anew: the guard was free only now.
   * @returns who uses it, so that it was not ended
   */
  async #end({ nqn, volumeId }: ManagedSession): Promise<string[]> {
    const { signal } = this.#options;
    const attachments = await this.#parts.cluster?.attachmentsHere({ signal });
    const session = (await this.#parts.sessions.ofVolume(volumeId, { signal })).find((each) => each.nqn === nqn);
    if (!session || !attachments || isNeeded(session, attachments)) return [];
    if (!session.live) {
      // A mount may be busy until its pod's programs have met their errors, and then no session shows it any more.
      this.#found?.unstaging.add(volumeId);
      await letGo(this.#parts, volumeId, { signal });
      return [];
    }
    const users = await this.#users(volumeId);
    if (users.length > 0) return users;
    const record = await this.#parts.records.read(volumeId);
    try {
      if (record) await unstage(this.#parts, { volumeId, stagingPath: record.stagingPath }, { signal });
      else await this.#disconnect(session);
    } catch (error) {
      if (error instanceof InUse) return [error.message];
      throw error;
    }
    log.warn("ended a session of a volume that was neither attached to this node nor used", { volumeId, nqn });
    return [];
  }

  /** Nothing of it is mounted; nobody holds its device either. */
  async #disconnect({ nqn, namespaces }: ManagedSession): Promise<void> {
    const { signal } = this.#options;
    const { commands, deadlines: { command: deadline }, sessions } = this.#parts;
    for (const device of namespaces) {
      const why = await isNodeOf(device)
        ? await whyNotIdle(device.path, { commands, deadline, signal })
        : "no device node";
      if (why !== undefined) throw new InUse(`${device.path}: ${why}`);
    }
    await sessions.disconnect(nqn, { signal });
  }

  async #trying(what: string, work: () => Promise<void>): Promise<void> {
    try {
      await work();
      this.#said.delete(what);
    } catch (error) {
      if (error instanceof Busy || this.#options.signal?.aborted) return;
      const message = messageOf(error);
      if (this.#said.get(what) !== message) log.warn("cleaning is tried again later", { what, error });
      this.#said.set(what, message);
    }
  }
}

/** Whether Kubernetes has a session's volume attached here; a dead session is needed under the attachment's NQN alone. */
function isNeeded({ volumeId, nqn, live }: ManagedSession, attachments: readonly AttachmentHere[]): boolean {
  const own = attachments.filter((each) => each.volumeId === volumeId);
  return own.some((each) => live || each.nqn === undefined || each.nqn === nqn);
}
