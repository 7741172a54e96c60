import type { Kube } from "../kube/client.ts";
import { nodePath } from "../kube/objects.ts";
import { Busy, messageOf, NotFound } from "../runtime/errors.ts";
import type { ControllerMetrics } from "../runtime/controller_metrics.ts";
import { log } from "../runtime/log.ts";
import type { Annotations } from "./annotations.ts";
import { atWork, type NodeObject, whyDangerous } from "./danger.ts";
import { byAge } from "./decide.ts";
import type { Pv } from "./objects.ts";
import type { Tell } from "./tell.ts";
import type { Seen, View } from "./view.ts";

/** What cuts a node off from a volume that may still write to it; undefined where nothing had to be cut. */
export type Fence = (
  volumeId: string,
  heldNqn: string | undefined,
  signal: AbortSignal,
) => Promise<{ from: string; to: string } | undefined>;

/** Settings of {@linkcode Release}. */
export interface ReleaseOptions {
  view: Pick<View, "current" | "of" | "pv">;
  kube: Pick<Kube, "get">;
  driver: string;
  /** Undefined: nothing is cut off (`--fence=off`). */
  fence: Fence | undefined;
  annotations: Pick<Annotations, "owed" | "owe" | "paid">;
  metrics: Pick<ControllerMetrics, "fences">;
  tell: Tell;
}

/** A node that leaves and may still write. */
interface Danger {
  nodeId: string;
  why: string;
}

/**
 * Lets nodes go from a volume. One that may still write is cut off first, and that it has to be is noted on the PV before
 * anything is done: whoever comes next finishes what was begun, or what had to wait because others were at work.
 */
export class Release {
  readonly #options: ReleaseOptions;

  constructor(options: ReleaseOptions) {
    this.#options = options;
  }

  /**
   * @throws {Unreachable} while a node that may still write is not cut off, or nobody can say whether it may
   * @param isNamed the request names the node; one for all nodes is meant for all that there are
   * @throws {Busy} when one that would have to be cut off has been given the volume anew: the request is late
   */
  async letGo(
    volumeId: string,
    { leaving, isNamed }: { leaving: readonly string[]; isNamed: boolean },
    signal: AbortSignal,
  ): Promise<void> {
    const { view, kube, driver, fence } = this.#options;
    const pv = view.pv(volumeId);
    const dangers: Danger[] = [];
    for (const nodeId of leaving) {
      const since = view.of(volumeId).find((each) => each.nodeId === nodeId)?.created;
      const volume = { driver, handle: pv?.handle ?? volumeId, since };
      const why = whyDangerous(await findNode(kube, nodeId, signal), volume);
      if (why !== undefined) dangers.push({ nodeId, why });
    }
    const owed = await this.#owed(pv, signal);
    if (dangers.length === 0 && owed === undefined) return;
    let all = await view.current(volumeId, signal);
    // A kubelet uses what is attached; who only asked for it was never told where it is.
    const had = all.filter(({ nodeId, attached }) => attached && dangers.some((each) => each.nodeId === nodeId));
    const cut = dangers.filter(({ nodeId }) => had.some((each) => each.nodeId === nodeId));
    if (!fence) return this.#risk(volumeId, cut);
    const stays = had.find(({ deleting }) => !deleting)?.nodeId;
    if (stays && isNamed) {
      throw new Busy(`${volumeId} stays with ${stays}: its attachment there is a new one that nobody deletes`);
    }
    const nqns = new Set(had.map(({ nqn }) => nqn));
    for (const nqn of nqns) if (pv) await this.#options.annotations.owe(pv.name, nqn, signal);
    // Again: who came before the note was written may have been given the volume, who comes later reads the note.
    if (pv && nqns.size > 0) all = await view.current(volumeId, signal);
    const others = atWork(all, leaving, pv?.mode ?? "single");
    if (others.length > 0) return this.#later(volumeId, cut, others);
    if (pv) return await this.#pay(volumeId, pv, cut, signal);
    for (const nqn of nqns) await this.#cut(volumeId, { nqn, cut }, signal);
  }

  /**
   * Cuts off whoever was let go while others were at work, before a node gets the volume that nobody is at work with. While
   * that may be under way for somebody else, nobody is given what it would cut off.
   * @param nodeId the one that gets it and has never had it
   * @throws {Busy} while another leaves, or is to get it first
   */
  async beforeGrant(volumeId: string, nodeId: string, signal: AbortSignal): Promise<void> {
    const { view, fence } = this.#options;
    const pv = view.pv(volumeId);
    if (!pv || !fence || await this.#owed(pv, signal) === undefined) return;
    const all = await view.current(volumeId, signal);
    const leaver = all.find(({ deleting }) => deleting);
    if (leaver) {
      throw new Busy(`${volumeId} waits for ${nodeId}: ${leaver.nodeId} leaves, and may have to be cut off first`);
    }
    if (all.some(({ attached }) => attached)) return;
    const [oldest] = [...all].sort(byAge);
    if (oldest?.nodeId === nodeId) return await this.#pay(volumeId, pv, [], signal);
    throw new Busy(
      `${volumeId} waits for ${nodeId}: ${oldest?.nodeId} asked earlier, and a node that left is cut off first`,
    );
  }

  async #owed(pv: Pv | undefined, signal: AbortSignal): Promise<string | undefined> {
    return pv && this.#options.fence && await this.#options.annotations.owed(pv.name, signal);
  }

  /** Does what is noted on the PV, and takes the note away if it is still that one. */
  async #pay(volumeId: string, pv: Pv, cut: readonly Danger[], signal: AbortSignal): Promise<void> {
    const { annotations } = this.#options;
    const owed = await annotations.owed(pv.name, signal);
    if (owed === undefined) return;
    await this.#cut(volumeId, { nqn: owed.startsWith("nqn.") ? owed : undefined, cut }, signal);
    await annotations.paid(pv.name, owed, signal);
  }

  async #cut(
    volumeId: string,
    { nqn, cut }: { nqn: string | undefined; cut: readonly Danger[] },
    signal: AbortSignal,
  ): Promise<void> {
    const { fence, metrics, tell } = this.#options;
    const who = cut.length > 0 ? namesOf(cut) : "a node that left earlier, while others used the volume,";
    try {
      const fenced = await fence?.(volumeId, nqn, signal);
      if (!fenced) return;
      metrics.fences.inc({ result: "done" });
      log.warn("a node was cut off from a volume", { volumeId, who, ...fenced });
      tell(volumeId, "VolumeFenced", `${who} was cut off from the volume: its NQN is now ${fenced.to}`);
    } catch (error) {
      metrics.fences.inc({ result: "failed" });
      tell(volumeId, "FenceFailed", `${who} cannot be cut off from the volume: ${messageOf(error)}`);
      throw error;
    }
  }

  #later(volumeId: string, cut: readonly Danger[], others: readonly Seen[]): void {
    if (cut.length === 0) return;
    const { metrics, tell } = this.#options;
    const users = others.map(({ nodeId }) => nodeId).join(" and ");
    const message =
      `${namesOf(cut)} may still write to the volume and is not cut off while ${users} uses it: it is when ` +
      "they have left. Make sure that it is off";
    metrics.fences.inc({ result: "owed" });
    log.warn(message, { volumeId });
    tell(volumeId, "FenceSkipped", message);
  }

  #risk(volumeId: string, cut: readonly Danger[]): void {
    if (cut.length === 0) return;
    const { metrics, tell } = this.#options;
    const message = `${namesOf(cut)} may still write to the volume and is not cut off, because of --fence=off: if it ` +
      "comes back while another node has the volume, the data is damaged. Make sure that it is off";
    metrics.fences.inc({ result: "off" });
    log.warn(message, { volumeId });
    tell(volumeId, "FenceSkipped", message);
  }
}

/** The Node as it is now; undefined only when the API server says that there is none. */
export async function findNode(
  kube: Pick<Kube, "get">,
  name: string,
  signal: AbortSignal,
): Promise<NodeObject | undefined> {
  try {
    return await kube.get<NodeObject>(nodePath(name), { signal });
  } catch (error) {
    if (error instanceof NotFound) return undefined;
    throw error;
  }
}

function namesOf(dangers: readonly Danger[]): string {
  return dangers.map(({ nodeId, why }) => `${nodeId} (${why})`).join(" and ");
}
