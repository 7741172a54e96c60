import type { AttachmentHere, Cluster, Known } from "../../src/staging/cluster.ts";

/** What Kubernetes would answer a node, set by a test. */
export class TestCluster implements Cluster {
  readonly pods = new Set<string>();
  attachments: AttachmentHere[] = [];
  /** By volume id and key. */
  readonly annotations = new Map<string, string>();
  readonly told: { volumeId: string; reason: string; message: string }[] = [];
  /** Set: each question is answered with this error. */
  failure: Error | undefined;

  /** The volume is attached to the node under an NQN. */
  attach({ volumeId }: { volumeId: string }, nqn: string | undefined): void {
    this.detach({ volumeId });
    this.attachments.push({ volumeId, nqn, attached: nqn !== undefined, deleting: false });
  }

  detach({ volumeId }: { volumeId: string }): void {
    this.attachments = this.attachments.filter((each) => each.volumeId !== volumeId);
  }

  annotate({ volumeId }: { volumeId: string }, key: string, value: string): void {
    this.annotations.set(`${volumeId} ${key}`, value);
  }

  podsHere(): Promise<ReadonlySet<string>> {
    return this.#answer(new Set(this.pods));
  }

  attachmentsHere(): Promise<readonly AttachmentHere[]> {
    return this.#answer([...this.attachments]);
  }

  annotation({ volumeId }: Known, key: string): Promise<string | undefined> {
    return this.#answer(this.annotations.get(`${volumeId} ${key}`));
  }

  nodeUid(): Promise<string> {
    return this.#answer("0d4c8a52-1b7e-4f10-9a1d-3f6d5f1f8a01");
  }

  tell({ volumeId }: Known, reason: string, message: string): void {
    this.told.push({ volumeId, reason, message });
  }

  #answer<T>(value: T): Promise<T> {
    return this.failure ? Promise.reject(this.failure) : Promise.resolve(value);
  }
}
