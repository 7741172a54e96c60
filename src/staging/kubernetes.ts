import type { Kube, KubeObject } from "../kube/client.ts";
import type { About, Events } from "../kube/events.ts";
import { attachmentPath, nodePath, type PvObject, pvPath, type VolumeAttachmentObject } from "../kube/objects.ts";
import type { Reason } from "../kube/reasons.ts";
import { parseManagedNqn } from "../nvme/nqn.ts";
import { FailedPrecondition, NotFound } from "../runtime/errors.ts";
import type { AttachmentHere, Cluster, Known } from "./cluster.ts";
import type { Cancellable } from "./volume.ts";

/** Settings of {@linkcode KubernetesCluster}. */
export interface KubernetesClusterOptions {
  kube: Pick<Kube, "get" | "list">;
  /** The driver's name: the attacher of its attachments. */
  driver: string;
  /** This node's name. */
  nodeId: string;
  /** The managed NQN prefix, validated. */
  prefix: string;
  events: Pick<Events, "postSought">;
}

/** What the node asks of Kubernetes, from a quorum each time: nothing is kept. */
export class KubernetesCluster implements Cluster {
  readonly #options: KubernetesClusterOptions;

  constructor(options: KubernetesClusterOptions) {
    this.#options = options;
  }

  async podsHere({ signal }: Cancellable): Promise<ReadonlySet<string>> {
    const uids = new Set<string>();
    const query = { fieldSelector: `spec.nodeName=${this.#options.nodeId}` };
    await this.#options.kube.list("/api/v1/pods", ({ metadata }) => {
      uids.add(uidOf("pod", metadata));
    }, { query, metadataOnly: true, signal });
    if (uids.size === 0) await this.#requireNode({ signal });
    return uids;
  }

  /** @throws {FailedPrecondition} when one of them does not say which volume it attaches: then nobody knows them all */
  async attachmentsHere({ signal }: Cancellable): Promise<readonly AttachmentHere[]> {
    const { kube, driver, nodeId } = this.#options;
    const found: VolumeAttachmentObject[] = [];
    await kube.list<VolumeAttachmentObject>(attachmentPath(), (object) => {
      if (object.spec?.attacher === driver && object.spec.nodeName === nodeId) found.push(object);
    }, { signal });
    if (found.length === 0) await this.#requireNode({ signal });
    const here: AttachmentHere[] = [];
    for (const object of found) {
      const { status, metadata } = object;
      const nqn = status?.attachmentMetadata?.["nvme_nqn"] || undefined;
      const rest = { nqn, attached: status?.attached === true, deleting: metadata.deletionTimestamp !== undefined };
      for (const volumeId of await this.#volumesOf(object, { signal })) here.push({ volumeId, ...rest });
    }
    return here;
  }

  async annotation(volume: Known, key: string, { signal }: Cancellable): Promise<string | undefined> {
    const pv = await this.#pv(volume.pv ?? volume.volumeId, signal);
    return pv && this.#isOf(pv, volume) ? pv.metadata.annotations?.[key] : undefined;
  }

  async nodeUid({ signal }: Cancellable): Promise<string> {
    const { kube, nodeId } = this.#options;
    return uidOf("Node", (await kube.get(nodePath(nodeId), { signal })).metadata);
  }

  /**
   * Kubernetes has nothing on a node that it does not know, and what is used there must not be taken for left behind.
   * @throws {FailedPrecondition} when there is no Node of this name
   */
  async #requireNode(options: Cancellable): Promise<void> {
    try {
      await this.nodeUid(options);
    } catch (error) {
      if (!(error instanceof NotFound)) throw error;
      const { nodeId } = this.#options;
      throw new FailedPrecondition(
        `Kubernetes has no Node '${nodeId}', so it cannot say what is needed here: set --node-id to the Node's name as ` +
          "'kubectl get nodes' shows it; if it was deleted, restart this machine's kubelet to register it again",
        { cause: error },
      );
    }
  }

  tell(volume: Known, reason: Reason, message: string): void {
    this.#options.events.postSought({ about: (signal) => this.#aboutOf(volume, signal), reason, message });
  }

  /** Where people look for news of a volume: its claim; its PV where it has none, or where that is gone. */
  async #aboutOf(volume: Known, signal: AbortSignal): Promise<About> {
    const pv = await this.#pv(volume.pv ?? volume.volumeId, signal);
    const { namespace, name, uid } = pv && this.#isOf(pv, volume) ? pv.spec?.claimRef ?? {} : {};
    if (namespace && name) {
      return { apiVersion: "v1", kind: "PersistentVolumeClaim", namespace, name, ...(uid ? { uid } : {}) };
    }
    const known = pv?.metadata.uid ? { uid: pv.metadata.uid } : {};
    return { apiVersion: "v1", kind: "PersistentVolume", name: volume.pv ?? volume.volumeId, ...known };
  }

  #isOf(pv: PvObject, { volumeId }: Known): boolean {
    const csi = pv.spec?.csi;
    return csi?.driver === this.#options.driver && csi.volumeHandle === volumeId;
  }

  /** Undefined only when the API server says that there is none. */
  async #pv(name: string, signal: AbortSignal | undefined): Promise<PvObject | undefined> {
    try {
      return await this.#options.kube.get<PvObject>(pvPath(name), { signal });
    } catch (error) {
      if (error instanceof NotFound) return undefined;
      throw error;
    }
  }

  /** The volume that an attachment is of; both ids that it may have where only the name of a PV that is gone is left. */
  async #volumesOf(object: VolumeAttachmentObject, { signal }: Cancellable): Promise<string[]> {
    const { volume_id: volumeId, nvme_nqn: nqn = "" } = object.status?.attachmentMetadata ?? {};
    const known = volumeId || parseManagedNqn(this.#options.prefix, nqn)?.volumeId;
    if (known) return [known];
    const name = object.spec?.source?.persistentVolumeName;
    if (!name) throw new FailedPrecondition(`the VolumeAttachment ${object.metadata.name} names no PersistentVolume`);
    const handle = (await this.#pv(name, signal))?.spec?.csi?.volumeHandle;
    return handle ? [handle] : [...new Set([name, shortened(name)])];
  }
}

/** The id that the driver makes for a PV of this name: its UUID's first 28 digits. */
function shortened(name: string): string {
  return name.replace(/^(pvc-)([0-9a-f-]{36})$/, (_, pvc, uuid) => pvc + uuid.replaceAll("-", "").slice(0, 28));
}

function uidOf(what: string, { name, uid }: KubeObject["metadata"]): string {
  if (uid) return uid;
  throw new FailedPrecondition(`Kubernetes names no UID of the ${what} ${name}: ask a real API server`);
}
