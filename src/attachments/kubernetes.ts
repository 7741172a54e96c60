import type { Kube } from "../kube/client.ts";
import type { Events } from "../kube/events.ts";
import { attachmentPath } from "../kube/objects.ts";
import { Busy, FailedPrecondition, NotFound } from "../runtime/errors.ts";
import { log } from "../runtime/log.ts";
import type { ControllerMetrics } from "../runtime/controller_metrics.ts";
import { Annotations } from "./annotations.ts";
import type { Attachments } from "./attachments.ts";
import { whyLost } from "./danger.ts";
import { type AccessMode, decide, type Decision, type Request } from "./decide.ts";
import type { MachineLock } from "./machine_lock.ts";
import type { Pv } from "./objects.ts";
import { type Fence, findNode, Release } from "./release.ts";
import { type Tell, tellerOf } from "./tell.ts";
import type { Seen, View } from "./view.ts";

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

/** A volume's attachments, the request's own, and whether it is given to the node now. */
interface Decided {
  all: readonly Seen[];
  own: Seen;
  isNew: boolean;
  /** Nobody else has the volume, and this node has not had it either. */
  alone: boolean;
}

/** Milliseconds that the watch has to show the attachment that a request is for: the volume is guarded meanwhile. */
const PATIENCE = 1000;

/** Attachments as Kubernetes has them. Nothing is kept here that decides anything: a restart loses nothing. */
export class KubernetesAttachments implements Attachments {
  readonly #options: KubernetesAttachmentsOptions;
  readonly #annotations: Annotations;
  readonly #tell: Tell;
  readonly #release: Release;

  constructor(options: KubernetesAttachmentsOptions) {
    this.#options = options;
    this.#annotations = new Annotations(options.kube);
    this.#tell = tellerOf(options.events, options.view);
    this.#release = new Release({ ...options, annotations: this.#annotations, tell: this.#tell });
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
      await view.until(() => view.of(volumeId).some((each) => each.nodeId === nodeId), PATIENCE, signal);
      // At once, so that one who asks in vain, again and again, does not guard the volume against those who let go of it.
      view.assertFresh();
      this.#assertNotRefused(volumeId, request, view.of(volumeId));
      if (!await findNode(this.#options.kube, nodeId, signal)) {
        throw new NotFound(
          `Kubernetes has no node '${nodeId}': was it removed, or does --node-id differ from its name?`,
        );
      }
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
      await this.#known(volumeId, signal);
      const all = nodeId === undefined ? await view.current(volumeId, signal) : view.of(volumeId);
      const leaving = nodeId === undefined ? [...new Set(all.map((each) => each.nodeId))] : [nodeId];
      const pv = view.pv(volumeId);
      await this.#release.letGo(volumeId, { leaving, isNamed: nodeId !== undefined }, signal);
      const rest = all.filter((each) => each.attached && !leaving.includes(each.nodeId));
      await this.#show(pv, rest, signal).catch((error) =>
        log.warn("the annotations of a PV still show a node that has left", { volumeId, pv: pv?.name, error })
      );
      // Who only asked for it has nothing to be detached from.
      const had = leaving.filter((each) => all.some(({ nodeId, attached }) => attached && nodeId === each));
      for (const each of had) this.#tell(volumeId, "VolumeDetached", `the volume was detached from ${each}`);
    });
  }

  holders(volumeId: string): readonly string[] {
    this.#options.view.assertFresh();
    return this.#options.view.of(volumeId).filter(({ attached }) => attached).map(({ nodeId }) => nodeId);
  }

  async askers(volumeId: string, signal: AbortSignal): Promise<readonly string[]> {
    return (await this.#options.view.current(volumeId, signal)).map(({ nodeId }) => nodeId);
  }

  async #attach<T>(
    volumeId: string,
    request: Request,
    prepare: (alone: boolean) => Promise<T>,
    signal: AbortSignal,
  ): Promise<T> {
    const { all, isNew: isFirst, alone } = await this.#decide(volumeId, request, signal);
    const pv = this.#options.view.pv(volumeId);
    if (isFirst) await this.#release.beforeGrant(volumeId, request.nodeId, signal);
    const prepared = await prepare(alone);
    await this.#show(pv, all.filter(({ nodeId, attached }) => attached || nodeId === request.nodeId), signal);
    // Again, so that no time lies between what was seen and the answer.
    const { own, isNew } = await this.#decideAgain(volumeId, request, { alone: alone || !isFirst, signal }).catch(
      async (error) => {
        await this.#show(pv, all.filter(({ attached }) => attached), signal).catch(() => {});
        throw error;
      },
    );
    if (isNew) {
      this.#options.granted(own.uid);
      this.#tell(volumeId, "VolumeAttached", `the volume was attached to ${request.nodeId}`);
    }
    return prepared;
  }

  /** One that has come to be alone in between begins anew: what is owed by those who left is made up for first. */
  async #decideAgain(
    volumeId: string,
    request: Request,
    { alone, signal }: { alone: boolean; signal: AbortSignal },
  ): Promise<Decided> {
    const decided = await this.#decide(volumeId, request, signal);
    if (alone || !decided.alone) return decided;
    throw new Busy(`${volumeId} waits for ${request.nodeId}: another node has just let go of it; try again`);
  }

  /** @throws when the node may not have it, or not yet */
  async #decide(
    volumeId: string,
    request: Request,
    signal: AbortSignal,
  ): Promise<Decided> {
    const { view } = this.#options;
    const { nodeId } = request;
    await this.#known(volumeId, signal);
    await this.#assertOwnIsSeen(volumeId, nodeId, signal);
    const mode = this.#modeOf(volumeId, request);
    let all = view.of(volumeId);
    let decision = this.#assertNotRefused(volumeId, request, all);
    if (decision.kind === "grant" && all.length > 1) {
      // Beside others nothing is given on a watch's word: that it lives does not prove how far it has come.
      all = await view.current(volumeId, signal);
      decision = this.#assertNotRefused(volumeId, request, all);
    }
    if (decision.kind === "wait") throw new Busy(`${volumeId} waits for ${nodeId}: ${decision.why}`);
    const isNew = decision.kind === "grant";
    const others = all.filter((each) => each.nodeId !== nodeId);
    if (isNew) await this.#assertNobodyIsLost(volumeId, others.filter(({ attached }) => attached), signal);
    // Claims beside a ReadWriteOnce grant were given nothing: that is what the grant has waited for.
    const alone = isNew && (mode === "single" ? others.every(({ attached }) => !attached) : others.length === 0);
    return { all, own: all.find((each) => each.nodeId === nodeId) as Seen, isNew, alone };
  }

  #modeOf(volumeId: string, { mode }: Request): AccessMode {
    return this.#options.view.pv(volumeId)?.mode === "multi" ? mode : "single";
  }

  /** @throws {FailedPrecondition} when others have the volume, or asked for it earlier; it is counted and told */
  #assertNotRefused(volumeId: string, request: Request, all: readonly Seen[]): Decision {
    const { metrics, now } = this.#options;
    const { nodeId } = request;
    const decision = decide(all, { nodeId, mode: this.#modeOf(volumeId, request) }, now());
    if (decision.kind !== "refuse") return decision;
    metrics.conflicts.inc();
    const message = `${volumeId} is refused to ${nodeId}: ${decision.why}`;
    this.#tell(volumeId, "AttachmentConflict", message);
    throw new FailedPrecondition(message);
  }

  /**
   * A second node gets a volume only while the first one is well: a lost one may still write, and could not be cut off
   * any more without cutting off the second.
   */
  async #assertNobodyIsLost(volumeId: string, others: readonly Seen[], signal: AbortSignal): Promise<void> {
    for (const { nodeId } of others) {
      const why = whyLost(await findNode(this.#options.kube, nodeId, signal));
      if (why === undefined || !this.#options.fence) continue;
      throw new FailedPrecondition(
        `${volumeId} is attached to ${nodeId}, and ${why}: nobody else gets it until ${nodeId} is well again, or was cut ` +
          "off when Kubernetes took the volume from it (after six minutes, or at once when you have switched it off and " +
          `tainted it 'kubectl taint node ${nodeId} node.kubernetes.io/out-of-service=nodeshutdown:NoExecute')`,
      );
    }
  }

  /**
   * A watch that is behind may show an attachment of the node that is long gone and replaced: what others were given in
   * between is then not shown either.
   */
  async #assertOwnIsSeen(volumeId: string, nodeId: string, signal: AbortSignal): Promise<void> {
    const { view, kube } = this.#options;
    const own = () => view.of(volumeId).find((each) => each.nodeId === nodeId);
    const seen = own();
    if (!seen) return;
    const present = await kube.get(attachmentPath(seen.name), { signal }).catch((error) => {
      if (error instanceof NotFound) return undefined;
      throw error;
    });
    const { uid, deletionTimestamp } = present?.metadata ?? {};
    const isSeen = uid && await view.until(() => own()?.uid === uid, PATIENCE, signal);
    if (isSeen && !deletionTimestamp) return;
    throw new Busy(
      `${volumeId} waits for ${nodeId}: its attachment is ${
        isSeen ? "being deleted" : "not seen yet"
      }; it is granted ` +
        `${isSeen ? "to the next one" : "once it is"}`,
    );
  }

  async #known(volumeId: string, signal: AbortSignal): Promise<readonly Seen[]> {
    const { view } = this.#options;
    view.assertFresh();
    await view.resolve(signal);
    return view.of(volumeId);
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
