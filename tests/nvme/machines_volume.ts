import type { MessageInitShape } from "@bufbuild/protobuf";
import {
  type Volume,
  VolumeCapability_AccessMode_Mode as Mode,
  VolumeCapabilitySchema,
} from "../../proto/gen/csi_pb.ts";
import type { Machines, NodeMachine } from "../lab/machines/machines.ts";
import { pause } from "../../src/runtime/deadline.ts";
import { patient } from "../lab/machines/patience.ts";

/** What a volume is used as. */
export type Kind = "ext4" | "ext3" | "xfs" | "block";

/** What can be set. */
export interface MachineVolumeOptions {
  kind?: Kind;
  /** Bytes; 1 GiB by default, which is the least. */
  size?: number;
  /** Several nodes may have it at a time. */
  shared?: boolean;
  /** More StorageClass parameters. */
  parameters?: Readonly<Record<string, string>>;
}

/** Milliseconds that a call may take. */
const CALL = 120_000;
/** gRPC's numbers. */
const [ABORTED, UNAVAILABLE] = [10, 14];

/** A volume of the machines' driver, step by step as sidecars and kubelets call for it. */
export class MachineVolume {
  readonly kind: Kind;
  readonly volume: Volume;
  readonly #machines: Machines;
  readonly #shared: boolean;
  #publishContext: Record<string, string> = {};

  private constructor(machines: Machines, volume: Volume, options: MachineVolumeOptions) {
    this.#machines = machines;
    this.volume = volume;
    this.kind = options.kind ?? "ext4";
    this.#shared = options.shared ?? false;
  }

  /** Makes a volume. Its kernel sessions try to come back every two seconds. */
  static async create(machines: Machines, options: MachineVolumeOptions = {}): Promise<MachineVolume> {
    using controller = machines.client();
    const { kind = "ext4", size = 2 ** 30, shared = false, parameters = {} } = options;
    const name = `pvc-${crypto.randomUUID()}`;
    const { volume } = await again(() =>
      controller.createVolume({
        name,
        capacityRange: { requiredBytes: BigInt(size) },
        volumeCapabilities: [capability(kind, shared)],
        parameters: { ...machines.parameters, reconnectDelay: "2", keepAliveTmo: "5", ...parameters },
      })
    );
    if (!volume) throw new Error("the controller made no volume");
    return new MachineVolume(machines, volume, options);
  }

  get id(): string {
    return this.volume.volumeId;
  }

  /** The NQN that it was attached under. */
  get nqn(): string {
    return this.#publishContext["nvme_nqn"] ?? "";
  }

  /** Where the kubelet mounts it once for a node. */
  get stagingPath(): string {
    const name = this.id.slice(4);
    return this.kind === "block"
      ? `/var/lib/kubelet/plugins/kubernetes.io/csi/volumeDevices/staging/${name}`
      : `/var/lib/kubelet/plugins/kubernetes.io/csi/rds/${name}/globalmount`;
  }

  /** Where a pod's mount, or device node, is. */
  targetPath(pod = "pod"): string {
    return this.kind === "block"
      ? `/var/lib/kubelet/plugins/kubernetes.io/csi/volumeDevices/publish/${this.id.slice(4)}/${pod}`
      : `/var/lib/kubelet/pods/${pod}/volumes/kubernetes.io~csi/${this.id.slice(4)}/mount`;
  }

  async attach(node: NodeMachine): Promise<void> {
    using controller = this.#machines.client();
    const request = { ...this.#named, nodeId: node.name };
    const { publishContext } = await again(() => controller.controllerPublishVolume(request));
    this.#publishContext = publishContext;
  }

  async detach(node: NodeMachine): Promise<void> {
    using controller = this.#machines.client();
    await again(() => controller.controllerUnpublishVolume({ volumeId: this.id, nodeId: node.name }));
  }

  async stage(node: NodeMachine): Promise<void> {
    await node.machine.guest.sh(`mkdir -p ${this.stagingPath}`);
    using client = node.client();
    const request = { ...this.#named, publishContext: this.#publishContext, stagingTargetPath: this.stagingPath };
    await client.nodeStageVolume(request, { deadline: patient(CALL) });
  }

  async publish(node: NodeMachine, pod = "pod"): Promise<void> {
    const targetPath = this.targetPath(pod);
    await node.machine.guest.sh(`mkdir -p ${targetPath.slice(0, targetPath.lastIndexOf("/"))}`);
    using client = node.client();
    await client.nodePublishVolume({
      ...this.#named,
      ...{ targetPath, publishContext: this.#publishContext, stagingTargetPath: this.stagingPath },
    }, { deadline: patient(CALL) });
  }

  async unpublish(node: NodeMachine, pod = "pod"): Promise<void> {
    using client = node.client();
    const request = { volumeId: this.id, targetPath: this.targetPath(pod) };
    await client.nodeUnpublishVolume(request, { deadline: patient(CALL) });
  }

  async unstage(node: NodeMachine): Promise<void> {
    using client = node.client();
    const request = { volumeId: this.id, stagingTargetPath: this.stagingPath };
    await client.nodeUnstageVolume(request, { deadline: patient(CALL) });
  }

  /** From nothing to a pod's mount on a node. */
  async up(node: NodeMachine, pod = "pod"): Promise<void> {
    await this.attach(node);
    await this.stage(node);
    await this.publish(node, pod);
  }

  /** From a pod's mount to nothing. */
  async down(node: NodeMachine, pod = "pod"): Promise<void> {
    await this.unpublish(node, pod);
    await this.unstage(node);
    await this.detach(node);
  }

  async delete(): Promise<void> {
    using controller = this.#machines.client();
    await again(() => controller.deleteVolume({ volumeId: this.id }));
  }

  get #named() {
    const { volumeId, volumeContext } = this.volume;
    return { volumeId, volumeContext, volumeCapability: capability(this.kind, this.#shared) };
  }
}

function capability(kind: Kind, shared: boolean): MessageInitShape<typeof VolumeCapabilitySchema> {
  const accessMode = { mode: shared ? Mode.MULTI_NODE_MULTI_WRITER : Mode.SINGLE_NODE_WRITER };
  if (kind === "block") return { accessMode, accessType: { case: "block", value: {} } };
  return { accessMode, accessType: { case: "mount", value: { fsType: kind } } };
}

/** Calls until the answer is another than UNAVAILABLE or ABORTED, as sidecars do. */
async function again<T>(call: () => Promise<T>): Promise<T> {
  for (const end = performance.now() + patient(CALL);;) {
    try {
      return await call();
    } catch (error) {
      const code = (error as { code?: unknown }).code;
      if ((code !== UNAVAILABLE && code !== ABORTED) || performance.now() > end) throw error;
      await pause(500);
    }
  }
}
