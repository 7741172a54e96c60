import type { Kube } from "../kube/client.ts";
import type { Events } from "../kube/events.ts";
import { Busy, FailedPrecondition, messageOf, NotFound } from "../runtime/errors.ts";
import { log } from "../runtime/log.ts";
import type { ControllerMetrics } from "../runtime/controller_metrics.ts";
import { Annotations } from "./annotations.ts";
import type { Attachments } from "./attachments.ts";
import { atWork, type NodeObject, whyDangerous } from "./danger.ts";
import { type AccessMode, decide, type Request } from "./decide.ts";
import type { MachineLock } from "./machine_lock.ts";
import type { Pv } from "./objects.ts";
import { tellerOf } from "./tell.ts";
import type { Seen, View } from "./view.ts";

/** What cuts a node off from a volume that may still write to it; undefined where nothing had to be cut. */
export type Fence = (
  volumeId: string,
  heldNqn: string | undefined,
  signal: AbortSignal,
) => Promise<{ from: string; to: string } | undefined>;

/** Settings of {@linkcode KubernetesAttachments}. */
export interface KubernetesAttachmentsOptions {
  view: View;
  kube: Pick<Kube, "get" | "patch">;
  driver: string;
  /** Undefined: nothing is cut off (`--fence=off`). */
  fence: Fence | undefined;
  events: Pick<Events, "post">;
  metrics: Pick<ControllerMetrics, "attaches" | "detaches" | "conflicts" | "attachmentDuration" | "fences">;
  /** Undefined: machines get their volumes in any order. */
  machines: Pick<MachineLock, "enter"> | undefined;
  /** Told when a node was given a volume: the attachment's UID. */
  granted: (uid: string) => void;
  /** Milliseconds of a clock that only goes on. */
  now: () => number;
}

/** Milliseconds that the watch has to show the attachment that a request is for, before the request is sent away. */
const PATIENCE = 5000;

/** Attachments as Kubernetes has them. Nothing is kept here that decides anything: a restart loses nothing. */
export class KubernetesAttachments implements Attachments {
  readonly #options: KubernetesAttachmentsOptions;
  readonly #annotations: Annotations;
  readonly #tell: ReturnType<typeof tellerOf>;

  constructor(options: KubernetesAttachmentsOptions) {
    this.#options = options;
    this.#annotations = new Annotations(options.kube);
    this.#tell = tellerOf(options.events, options.view);
  }

  async attach<T>(
    volumeId: string,
    request: Request,
    prepare: (alone: boolean) => Promise<T>,
    signal: AbortSignal,
  ): Promise<T> {
    return await this.#counted("attach", this.#options.metrics.attaches, async () => {
      const { view } = this.#options;
      const { nodeId } = request;
      if (!await this.#node(nodeId, signal)) {
        throw new NotFound(
          `Kubernetes has no node '${nodeId}': was it removed, or does --node-id differ from its name?`,
        );
      }
      await view.until(() => view.of(volumeId).some((each) => each.nodeId === nodeId), PATIENCE, signal);
      const turn = await this.#turn(volumeId, signal);
      try {
        const prepared = await this.#attach(volumeId, request, prepare, signal);
        turn?.attached();
        return prepared;
      } catch (error) {
        turn?.failed();
        throw error;
      }
    });
  }

  async detach(volumeId: string, nodeId: string | undefined, signal: AbortSignal): Promise<void> {
    await this.#counted("detach", this.#options.metrics.detaches, async () => {
      const { view } = this.#options;
      const all = await this.#known(volumeId, signal);
      const leaving = nodeId === undefined ? [...new Set(all.map((each) => each.nodeId))] : [nodeId];
      const pv = view.pv(volumeId);
      for (const each of leaving) await this.#release(volumeId, { nodeId: each, leaving, pv }, signal);
      if (atWork(all, leaving, pv?.mode ?? "single").length === 0) await this.#cutOwed(volumeId, pv, signal);
      const rest = all.filter((each) => each.attached && !leaving.includes(each.nodeId));
      await this.#show(pv, rest, signal).catch((error) =>
        log.warn("the annotations of a PV still show a node that has left", { volumeId, pv: pv?.name, error })
      );
      for (const each of leaving) this.#tell(volumeId, "VolumeDetached", `the volume was detached from ${each}`);
    });
  }

  holders(volumeId: string): readonly string[] {
    return this.#options.view.of(volumeId).filter(({ attached }) => attached).map(({ nodeId }) => nodeId);
  }

  askers(volumeId: string): readonly string[] {
    return this.#options.view.of(volumeId).map(({ nodeId }) => nodeId);
  }

  async #attach<T>(
    volumeId: string,
    request: Request,
    prepare: (alone: boolean) => Promise<T>,
    signal: AbortSignal,
  ): Promise<T> {
    const { all } = await this.#decide(volumeId, request, signal);
    const alone = all.every(({ nodeId }) => nodeId === request.nodeId);
    const pv = this.#options.view.pv(volumeId);
    if (alone) await this.#cutOwed(volumeId, pv, signal);
    const prepared = await prepare(alone);
    await this.#show(pv, all.filter(({ nodeId, attached }) => attached || nodeId === request.nodeId), signal);
    // Again, so that no time lies between what was seen and the answer.
    const { own, isNew } = await this.#decide(volumeId, request, signal).catch(async (error) => {
      await this.#show(pv, all.filter(({ attached }) => attached), signal).catch(() => {});
      throw error;
    });
    if (isNew) {
      this.#options.granted(own.uid);
      this.#tell(volumeId, "VolumeAttached", `the volume was attached to ${request.nodeId}`);
    }
    return prepared;
  }

  /** @throws when the node may not have it, or not yet */
  async #decide(
    volumeId: string,
    request: Request,
    signal: AbortSignal,
  ): Promise<{ all: readonly Seen[]; own: Seen; isNew: boolean }> {
    const { view, now, metrics } = this.#options;
    const all = await this.#known(volumeId, signal);
    const { nodeId } = request;
    const mode: AccessMode = view.pv(volumeId)?.mode === "multi" ? request.mode : "single";
    const decision = decide(all, { nodeId, mode }, now());
    if (decision.kind === "wait") throw new Busy(`${volumeId} waits for ${nodeId}: ${decision.why}`);
    if (decision.kind === "refuse") {
      metrics.conflicts.inc();
      const message = `${volumeId} is refused to ${nodeId}: ${decision.why}`;
      this.#tell(volumeId, "AttachmentConflict", message);
      throw new FailedPrecondition(message);
    }
    return { all, own: all.find((each) => each.nodeId === nodeId) as Seen, isNew: decision.kind === "grant" };
  }

  async #known(volumeId: string, signal: AbortSignal): Promise<readonly Seen[]> {
    const { view } = this.#options;
    view.assertFresh();
    await view.resolve(signal);
    return view.of(volumeId);
  }

  /** Lets one node go: one that may still write is cut off first, unless that would cut off others who are at work. */
  async #release(
    volumeId: string,
    { nodeId, leaving, pv }: { nodeId: string; leaving: readonly string[]; pv: Pv | undefined },
    signal: AbortSignal,
  ): Promise<void> {
    const { view, driver } = this.#options;
    const why = whyDangerous(await this.#node(nodeId, signal), { driver, handle: pv?.handle ?? volumeId });
    if (why === undefined) return;
    const all = view.of(volumeId);
    const nqn = all.find((each) => each.nodeId === nodeId)?.nqn;
    const others = atWork(all, leaving, pv?.mode ?? "single");
    if (others.length === 0) return await this.#cut(volumeId, { nodeId, why, nqn }, signal);
    const names = others.map((each) => each.nodeId).join(" and ");
    log.warn("a node that may still write is not cut off, because others use the volume", {
      volumeId,
      nodeId,
      why,
      names,
    });
    if (this.#options.fence && pv) await this.#annotations.owe(pv.name, nqn ?? "unknown", signal);
    this.#options.metrics.fences.inc({ result: "owed" });
    this.#tell(
      volumeId,
      "FenceSkipped",
      `${nodeId} may still write to the volume (${why}) and is not cut off while ${names} uses it: it is when they have ` +
        `left. Make sure that ${nodeId} is off`,
    );
  }

  async #cut(
    volumeId: string,
    { nodeId, why, nqn }: { nodeId: string; why: string; nqn: string | undefined },
    signal: AbortSignal,
  ): Promise<void> {
    const { fence, metrics } = this.#options;
    if (!fence) {
      metrics.fences.inc({ result: "off" });
      const risk =
        `${nodeId} may still write to the volume (${why}) and is not cut off, because of --fence=off: if it ` +
        "comes back while another node has the volume, the data is damaged. Make sure that it is off";
      log.warn(risk, { volumeId });
      this.#tell(volumeId, "FenceSkipped", risk);
      return;
    }
    try {
      const fenced = await fence(volumeId, nqn, signal);
      if (!fenced) return;
      metrics.fences.inc({ result: "done" });
      log.warn("a node was cut off from a volume", { volumeId, nodeId, why, ...fenced });
      this.#tell(
        volumeId,
        "VolumeFenced",
        `${nodeId} was cut off from the volume (${why}): its NQN is now ${fenced.to}`,
      );
    } catch (error) {
      metrics.fences.inc({ result: "failed" });
      this.#tell(volumeId, "FenceFailed", `${nodeId} (${why}) cannot be cut off from the volume: ${messageOf(error)}`);
      throw error;
    }
  }

  /** Cuts off whoever was let go while others were at work, now that nobody is. */
  async #cutOwed(volumeId: string, pv: Pv | undefined, signal: AbortSignal): Promise<void> {
    if (!pv || !this.#options.fence) return;
    const nqn = await this.#annotations.owed(pv.name, signal);
    if (nqn === undefined) return;
    const owed = { nodeId: "a node that left earlier", why: "others were using the volume then" };
    await this.#cut(volumeId, { ...owed, nqn: nqn === "unknown" ? undefined : nqn }, signal);
    await this.#annotations.owe(pv.name, undefined, signal);
  }

  async #show(pv: Pv | undefined, attachments: readonly Seen[], signal: AbortSignal): Promise<void> {
    if (!pv) return;
    await this.#annotations.show(
      pv.name,
      attachments.map(({ nodeId, created }) => ({ nodeId, since: created })),
      signal,
    );
  }

  async #turn(volumeId: string, signal: AbortSignal): Promise<Awaited<ReturnType<MachineLock["enter"]>> | undefined> {
    const { machines, view } = this.#options;
    const claim = machines && view.pv(volumeId)?.claim;
    return claim && await machines.enter(volumeId, claim, signal);
  }

  /** The Node as it is now; undefined only when the API server says that there is none. */
  async #node(name: string, signal: AbortSignal): Promise<NodeObject | undefined> {
    try {
      return await this.#options.kube.get<NodeObject>(`/api/v1/nodes/${encodeURIComponent(name)}`, { signal });
    } catch (error) {
      if (error instanceof NotFound) return undefined;
      throw error;
    }
  }

  async #counted<T>(
    operation: string,
    counter: { inc(labels: { status: string }): void },
    work: () => Promise<T>,
  ): Promise<T> {
    const end = this.#options.metrics.attachmentDuration.startTimer({ operation });
    try {
      const result = await work();
      counter.inc({ status: "success" });
      return result;
    } catch (error) {
      counter.inc({ status: "failure" });
      throw error;
    } finally {
      end();
    }
  }
}
