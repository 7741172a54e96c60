import type { Request } from "./decide.ts";

/** Who has which volume. Safe to call again and again: the same node twice is fine, an unknown one to detach too. */
export interface Attachments {
  /**
   * Gives the volume to the node.
   * @param prepare is run once the node may have it and before anybody is told; when it throws, nothing is given. `alone`
   * says that nobody else has the volume or may have it
   * @returns what `prepare` returns
   * @throws {NotFound} for a node that does not exist
   * @throws {AlreadyExists} when the node has it with another access mode
   * @throws {FailedPrecondition} while somebody else has it, naming them
   * @throws {Busy} when it may be granted later
   * @throws {Unreachable} when nobody can say who has it
   */
  attach<T>(
    volumeId: string,
    request: Request,
    prepare: (alone: boolean) => Promise<T>,
    signal: AbortSignal,
  ): Promise<T>;
  /**
   * Takes it from the node, or from all nodes when none is named.
   * @throws {Unreachable} when a node that may still write to it could not be cut off
   */
  detach(volumeId: string, nodeId: string | undefined, signal: AbortSignal): Promise<void>;
  /** The nodes that have it, longest first. Never null. @throws {Unreachable} when nobody can say */
  holders(volumeId: string): readonly string[];
  /**
   * The nodes that have it or have asked for it, and may have it already, as it is at this moment: for what must not be
   * done to a volume that anybody has. Never null.
   * @throws {Unreachable} when nobody can say
   */
  askers(volumeId: string, signal: AbortSignal): Promise<readonly string[]>;
}
