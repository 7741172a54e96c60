import { AlreadyExists, Busy, FailedPrecondition, NotFound } from "../runtime/errors.ts";
import type { Attachments } from "./attachments.ts";
import { type AccessMode, type Attachment, decide, type Request } from "./decide.ts";

/** Attachments in memory, lost when the process ends: for a controller that runs without Kubernetes. */
export class MemoryAttachments implements Attachments {
  readonly #nodes: ReadonlySet<string>;
  readonly #volumes = new Map<string, { mode: AccessMode; attachments: Attachment[] }>();

  /** @param nodes the ids of the nodes that exist */
  constructor(nodes: Iterable<string>) {
    this.#nodes = new Set(nodes);
  }

  async attach<T>(volumeId: string, request: Request, prepare: (alone: boolean) => Promise<T>): Promise<T> {
    const others = this.#decide(volumeId, request).attachments.filter(({ nodeId }) => nodeId !== request.nodeId);
    const prepared = await prepare(others.length === 0);
    // Again, because others may have come in between.
    const { mode, attachments } = this.#decide(volumeId, request);
    this.#volumes.set(volumeId, { mode, attachments: attachments.map((each) => ({ ...each, attached: true })) });
    return prepared;
  }

  #decide(volumeId: string, request: Request): { mode: AccessMode; attachments: Attachment[] } {
    const { nodeId } = request;
    if (!this.#nodes.has(nodeId)) {
      throw new NotFound(`there is no node '${nodeId}': known are ${[...this.#nodes].join(", ")} (--standalone-nodes)`);
    }
    const known = this.#volumes.get(volumeId) ?? { mode: request.mode, attachments: [] };
    const isKnown = known.attachments.some((attachment) => attachment.nodeId === nodeId);
    if (isKnown && known.mode !== request.mode) {
      throw new AlreadyExists(`${volumeId} is attached to ${nodeId} with another access mode: detach it first`);
    }
    // One that asks for it alone keeps it alone, and so does one that has it alone.
    const mode = known.mode === "single" ? "single" : request.mode;
    const attachments = isKnown ? known.attachments : [...known.attachments, claimOf(nodeId)];
    const decision = decide(attachments, { nodeId, mode }, Infinity);
    if (decision.kind === "refuse") {
      throw new FailedPrecondition(`${volumeId} is refused to ${nodeId}: ${decision.why}`);
    }
    if (decision.kind === "wait") throw new Busy(`${volumeId} waits for ${nodeId}: ${decision.why}`);
    return { mode, attachments };
  }

  // deno-lint-ignore require-await -- the interface is for attachments that live elsewhere
  async detach(volumeId: string, nodeId: string | undefined): Promise<void> {
    const known = this.#volumes.get(volumeId);
    const rest = known?.attachments.filter((each) => nodeId !== undefined && each.nodeId !== nodeId) ?? [];
    if (known && rest.length > 0) this.#volumes.set(volumeId, { ...known, attachments: rest });
    else this.#volumes.delete(volumeId);
  }

  holders(volumeId: string): readonly string[] {
    return this.#volumes.get(volumeId)?.attachments.map(({ nodeId }) => nodeId) ?? [];
  }

  askers(volumeId: string): Promise<readonly string[]> {
    return Promise.resolve(this.holders(volumeId));
  }
}

function claimOf(nodeId: string): Attachment {
  return { uid: nodeId, nodeId, attached: false, deleting: false, created: 0, seen: 0 };
}
