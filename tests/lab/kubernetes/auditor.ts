import { messageOf } from "../../../src/runtime/errors.ts";
import { pause } from "../../../src/runtime/deadline.ts";
import type { Simulator } from "../../../src/simulator/simulator.ts";
import { Audit, type Conflict, type Mismatch, type Stuck } from "./audit.ts";
import { type Change, type KubeClient, KubeError } from "./client.ts";
import { type Kind, type KubeObject, persistentVolumes, type VolumeAttachment, volumeAttachments } from "./objects.ts";

/** What can be set. */
export interface AuditorOptions {
  /** Attachments of this driver are looked at. */
  driver: string;
  /** The RouterOS whose NQNs the nodes should be told. */
  simulator?: Simulator;
}

/** Watches all VolumeAttachments, and says whether ever two nodes had what one may have. Letting it go ends the watch. */
export class Auditor implements AsyncDisposable {
  readonly #kube: KubeClient;
  readonly #options: AuditorOptions;
  readonly #audit = new Audit();
  readonly #ended = new AbortController();
  readonly #watches: Promise<void>[] = [];
  /** Why something was missed. */
  #blind: string | undefined;

  /** Made by {@linkcode startAuditor}. */
  constructor(kube: KubeClient, options: AuditorOptions) {
    this.#kube = kube;
    this.#options = options;
  }

  /** Begins with what there is. */
  async start(): Promise<void> {
    await this.#follow(persistentVolumes, ({ object }) => this.#audit.volumeSeen(object));
    await this.#follow(volumeAttachments, (change) => this.#changed(change));
  }

  /** Every time that a volume came to have more nodes than it may. Says nothing of what it has not seen yet. */
  conflicts(): Conflict[] {
    return this.#audit.conflicts();
  }

  /** What has not moved for so many milliseconds although nobody is in its way. */
  stuck(patience: number): Stuck[] {
    return this.#audit.stuck(patience, Date.now());
  }

  /** Grants with another NQN than RouterOS had for the volume when they appeared. */
  mismatches(): Mismatch[] {
    return this.#audit.mismatches();
  }

  /** What happened to a volume, a line a change, for people. */
  story(volume: string): string[] {
    return this.#audit.story(volume);
  }

  /** Waits until it has seen all that the API server has. */
  async caughtUp(): Promise<void> {
    await this.#kube.wait("the auditor to have seen all", async () => {
      if (this.#blind) throw new Error(this.#blind);
      const there = (await this.#kube.list(volumeAttachments)).filter((va) => this.#isOurs(va));
      const seen = this.#audit.versions;
      const isSame = ({ metadata: { name, resourceVersion } }: VolumeAttachment) => seen.get(name) === resourceVersion;
      return seen.size === there.length && there.every(isSame) || undefined;
    });
  }

  /** @throws with what happened, when a volume ever had too many nodes, or a node was told a wrong NQN */
  async assertSound(): Promise<void> {
    await this.caughtUp();
    const conflicts = this.conflicts().map(({ volume, version, nodes, limit }) =>
      this.#told(`${nodes.join(" and ")} had ${volume} at v${version}, which is for ${limit}`, volume)
    );
    const mismatches = this.mismatches().map(({ name, volume, told, present }) =>
      this.#told(`${name} was told ${told} when RouterOS had ${present ?? "none"}`, volume)
    );
    const problems = [...conflicts, ...mismatches];
    if (problems.length > 0) throw new Error(problems.join("\n"));
  }

  /** @throws with what happened, when something has not moved for so many milliseconds */
  async assertNothingStuck(patience: number): Promise<void> {
    await this.caughtUp();
    const stuck = this.stuck(patience).map(({ name, volume, why, waited }) =>
      this.#told(`${name} ${why}, for ${waited} ms`, volume)
    );
    if (stuck.length > 0) throw new Error(stuck.join("\n"));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ended.abort();
    await Promise.all(this.#watches);
  }

  #told(what: string, volume: string): string {
    return `${what}:\n  ${this.story(volume).join("\n  ")}`;
  }

  #isOurs({ spec }: VolumeAttachment): boolean {
    return spec.attacher === this.#options.driver;
  }

  #changed(change: Change<VolumeAttachment>): void {
    if (!this.#isOurs(change.object)) return;
    const { simulator } = this.#options;
    // Asked now, whether it is needed or not: later it may be another.
    const rows = simulator?.state().disks ?? [];
    const present = (volume: string) => {
      const nqn = rows.find(({ slot }) => slot === volume)?.["nvme-tcp-server-nqn"];
      return nqn === undefined ? undefined : String(nqn);
    };
    this.#audit.changed(change, { at: Date.now(), ...(simulator ? { present } : {}) });
  }

  /** Tells what there is, and then every change, until the auditor is let go. */
  async #follow<T extends KubeObject>(kind: Kind<T>, tell: (change: Change<T>) => void): Promise<void> {
    const { items, version } = await this.#kube.snapshot(kind);
    for (const object of items) tell({ type: "ADDED", object });
    this.#watches.push(this.#watch(kind, version, tell));
  }

  async #watch<T extends KubeObject>(kind: Kind<T>, from: string, tell: (change: Change<T>) => void): Promise<void> {
    const { signal } = this.#ended;
    for (let version = from; !signal.aborted;) {
      try {
        for await (const change of this.#kube.watch(kind, { version, signal })) {
          tell(change);
          version = change.object.metadata.resourceVersion ?? version;
        }
      } catch (error) {
        if (error instanceof KubeError && error.status === 410) {
          this.#blind = `the auditor has missed changes: ${messageOf(error)}`;
          return;
        }
        await pause(100, signal).catch(() => {});
      }
    }
  }
}

/** Starts to watch. */
export async function startAuditor(kube: KubeClient, options: AuditorOptions): Promise<Auditor> {
  const auditor = new Auditor(kube, options);
  await auditor.start();
  return auditor;
}
