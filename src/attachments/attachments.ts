import { FailedPrecondition, NotFound } from "../runtime/errors.ts";
import { type AccessMode, decide, type Holder } from "./decide.ts";

/** Who has which volume. Safe to call again and again: the same node twice is fine, an unknown one to detach too. */
export interface Attachments {
  /**
   * Gives the volume to the node.
   * @throws {NotFound} for a node that does not exist
   * @throws {FailedPrecondition} while somebody else has it, naming them
   */
  attach(volumeId: string, request: { nodeId: string; mode: AccessMode }): Promise<void>;
  /** Takes it from the node, or from all nodes when none is named. */
  detach(volumeId: string, nodeId: string | undefined): Promise<void>;
  /** The nodes that have it, longest first. Never null. */
  holders(volumeId: string): readonly Holder[];
}

/** Attachments in memory, lost when the process ends: for a controller that runs without Kubernetes. */
export class MemoryAttachments implements Attachments {
  readonly #nodes: ReadonlySet<string>;
  readonly #holders = new Map<string, Holder[]>();

  /** @param nodes the ids of the nodes that exist */
  constructor(nodes: Iterable<string>) {
    this.#nodes = new Set(nodes);
  }

  // deno-lint-ignore require-await -- the interface is for attachments that live elsewhere
  async attach(volumeId: string, request: { nodeId: string; mode: AccessMode }): Promise<void> {
    const { nodeId } = request;
    if (!this.#nodes.has(nodeId)) {
      throw new NotFound(`there is no node '${nodeId}': known are ${[...this.#nodes].join(", ")} (--standalone-nodes)`);
    }
    const holders = this.holders(volumeId);
    const decision = decide(holders, request);
    if (decision.kind === "refuse") {
      throw new FailedPrecondition(`${volumeId} is refused to ${nodeId}: ${decision.why}`);
    }
    if (decision.kind === "grant") this.#holders.set(volumeId, [...holders, request]);
  }

  // deno-lint-ignore require-await -- as above
  async detach(volumeId: string, nodeId: string | undefined): Promise<void> {
    const rest = this.holders(volumeId).filter((holder) => nodeId !== undefined && holder.nodeId !== nodeId);
    if (rest.length > 0) this.#holders.set(volumeId, rest);
    else this.#holders.delete(volumeId);
  }

  holders(volumeId: string): readonly Holder[] {
    return this.#holders.get(volumeId) ?? [];
  }
}
