import type { Kube, KubeObject } from "../kube/client.ts";
import type { About, Events } from "../kube/events.ts";
import {
  attachmentPath,
  type MachineObject,
  nodePath,
  type PvObject,
  pvPath,
  type VolumeAttachmentObject,
} from "../kube/objects.ts";
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
  /** Which start of this machine it is; undefined where that cannot be read. Without it no Node is taken for another's. */
  boot?: () => Promise<string | undefined>;
}

/** What the node asks of Kubernetes, from a quorum each time: nothing is kept. */
export class KubernetesCluster implements Cluster {
  readonly #options: KubernetesClusterOptions;
  /** Whether the Node is proven to be this machine's. That does not change while the agent runs. */
  #isOwn = false;

  constructor(options: KubernetesClusterOptions) {
    this.#options = options;
  }

  async podsHere({ signal }: Cancellable): Promise<ReadonlySet<string>> {
    const uids = new Set<string>();
    const query = { fieldSelector: `spec.nodeName=${this.#options.nodeId}` };
    await this.#options.kube.list("/api/v1/pods", ({ metadata }) => {
      uids.add(uidOf("pod", metadata));
    }, { query, metadataOnly: true, signal });
    await this.#requireNode({ hasAny: uids.size > 0, signal });
    return uids;
  }

  /** @throws {FailedPrecondition} when one of them does not say which volume it attaches: then nobody knows them all */
  async attachmentsHere({ signal }: Cancellable): Promise<readonly AttachmentHere[]> {
    const { kube, driver, nodeId } = this.#options;
    const found: VolumeAttachmentObject[] = [];
    await kube.list<VolumeAttachmentObject>(attachmentPath(), (object) => {
      if (object.spec?.attacher === driver && object.spec.nodeName === nodeId) found.push(object);
    }, { signal });
    await this.#requireNode({ hasAny: found.length > 0, signal });
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
    return uidOf("Node", (await this.#node({ signal })).metadata);
  }

  /**
   * Kubernetes has nothing on a node that it does not know, and what another machine has says nothing of this one: what is
   * used here must not be taken for left behind.
   * @param options.hasAny whether it has anything here: that may be so for a moment after the Node was deleted
   * @throws {FailedPrecondition} when there is no Node of this name, or it is another machine's
   */
  async #requireNode({ hasAny, signal }: { hasAny: boolean } & Cancellable): Promise<void> {
    if (hasAny && this.#isOwn) return;
    try {
      await this.#node({ signal });
    } catch (error) {
      if (!(error instanceof NotFound)) throw error;
      if (hasAny) return;
      throw new FailedPrecondition(
        `Kubernetes has no Node '${this.#options.nodeId}', so it cannot say what is needed here: ${howNamed}; if it was ` +
          "deleted, restart this machine's kubelet to register it again",
        { cause: error },
      );
    }
  }

  /** This node's Node. @throws {FailedPrecondition} when it is another machine's */
  async #node({ signal }: Cancellable): Promise<MachineObject> {
    const { kube, nodeId, boot } = this.#options;
    const node = await kube.get<MachineObject>(nodePath(nodeId), { signal });
    const [told, own] = [node.status?.nodeInfo?.bootID?.toLowerCase(), (await boot?.())?.toLowerCase()];
    if (!told || !own) return node;
    this.#isOwn = told === own;
    if (this.#isOwn) return node;
    throw new FailedPrecondition(
      `the Node '${nodeId}' is another machine's, as its kubelet runs in boot ${told} and this machine is in boot ${own}: ` +
        `what Kubernetes has there says nothing of what is needed here. It is put right so: ${howNamed}; ` +
        "if that is right, this machine was started anew and its kubelet has not told Kubernetes yet: then it passes by itself",
    );
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

const howNamed = "set --node-id to the Node's name as 'kubectl get nodes' shows it for this machine";

/** The id that the driver makes for a PV of this name: its UUID's first 28 digits. */
function shortened(name: string): string {
  return name.replace(/^(pvc-)([0-9a-f-]{36})$/, (_, pvc, uuid) => pvc + uuid.replaceAll("-", "").slice(0, 28));
}

function uidOf(what: string, { name, uid }: KubeObject["metadata"]): string {
  if (uid) return uid;
  throw new FailedPrecondition(`Kubernetes names no UID of the ${what} ${name}: ask a real API server`);
}
