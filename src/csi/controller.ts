import {
  type CapacityRange,
  type Controller,
  type ControllerExpandVolumeRequest,
  type ControllerGetVolumeRequest,
  type ControllerPublishVolumeRequest,
  ControllerServiceCapability_RPC_Type as Rpc,
  type ControllerUnpublishVolumeRequest,
  type CreateVolumeRequest,
  type DeleteVolumeRequest,
  type GetCapacityRequest,
  type ListVolumesRequest,
  type ValidateVolumeCapabilitiesRequest,
} from "../../proto/gen/csi_pb.ts";
import type { Attachments } from "../attachments/attachments.ts";
import { FailedPrecondition, InvalidArgument } from "../runtime/errors.ts";
import { LEAST_SIZE, type SizeRange } from "../volumes/size.ts";
import type { Volume, Volumes } from "../volumes/volumes.ts";
import { useOf, usesOf, whyUnsupported } from "./capability.ts";
import type { CallContext, Handlers } from "./server.ts";

/** What the handlers work with. */
export interface ControllerOptions {
  volumes: Volumes;
  attachments: Attachments;
  /** When volumes grow: also while a node has them, or not. */
  expansion: "online" | "offline";
  /** Where nodes reach the exports of volumes whose PV does not say. */
  serverAddress: string;
}

const capabilities = [
  Rpc.CREATE_DELETE_VOLUME,
  Rpc.PUBLISH_UNPUBLISH_VOLUME,
  Rpc.LIST_VOLUMES,
  Rpc.LIST_VOLUMES_PUBLISHED_NODES,
  Rpc.GET_CAPACITY,
  Rpc.EXPAND_VOLUME,
  Rpc.GET_VOLUME,
  Rpc.SINGLE_NODE_MULTI_WRITER,
];

/** The Controller service: check the fields, one call, the answer. Idempotency and waiting are the domain's. */
export function controllerService(options: ControllerOptions): Handlers<typeof Controller> {
  const { volumes, attachments, expansion, serverAddress } = options;

  function entry(volume: Volume) {
    return {
      volume: { volumeId: volume.id, capacityBytes: volume.size },
      status: { publishedNodeIds: [...attachments.holders(volume.id)] },
    };
  }

  return {
    async createVolume(request: CreateVolumeRequest, call: CallContext) {
      if (request.volumeContentSource) {
        throw new InvalidArgument("volumes cannot be made from snapshots or other volumes: leave the dataSource out");
      }
      if (Object.keys(request.mutableParameters).length > 0) {
        throw new InvalidArgument("there are no mutable parameters: leave the VolumeAttributesClass out");
      }
      usesOf(request.volumeCapabilities);
      const { name, parameters } = request;
      const { volume, context } = await volumes.create({ name, parameters, range: rangeOf(request) }, call.signal);
      return { volume: { volumeId: volume.id, capacityBytes: volume.size, volumeContext: context } };
    },

    async deleteVolume(request: DeleteVolumeRequest, call: CallContext) {
      const id = required(request.volumeId, "volume_id");
      const nodes = await attachments.askers(id, call.signal);
      if (nodes.length > 0) {
        throw new FailedPrecondition(`${id} is attached to ${nodes.join(" and ")}: it is deleted once it is detached`);
      }
      await volumes.delete(id, call.signal);
      return {};
    },

    async controllerPublishVolume(request: ControllerPublishVolumeRequest, call: CallContext) {
      const [id, nodeId] = [required(request.volumeId, "volume_id"), required(request.nodeId, "node_id")];
      const use = useOf(request.volumeCapability);
      if (request.readonly) {
        throw new InvalidArgument("read-only attachments are not there: mount the volume read-only");
      }
      // What RouterOS says is read after the decision: a fence before it has given the export another NQN.
      return await attachments.attach(id, { nodeId, mode: use.mode }, async (alone) => {
        const volume = await volumes.require(id, call.signal);
        volumes.checkExported(volume);
        if (alone) await volumes.unmountFilesystem(volume, call.signal);
        return { publishContext: publishContext(volume, request, serverAddress) };
      }, call.signal);
    },

    async controllerUnpublishVolume(request: ControllerUnpublishVolumeRequest, call: CallContext) {
      await attachments.detach(required(request.volumeId, "volume_id"), request.nodeId || undefined, call.signal);
      return {};
    },

    async validateVolumeCapabilities(request: ValidateVolumeCapabilitiesRequest, call: CallContext) {
      const id = required(request.volumeId, "volume_id");
      const { volumeCapabilities, volumeContext, parameters } = request;
      if (volumeCapabilities.length === 0) {
        throw new InvalidArgument("volume_capabilities is empty: say what to validate");
      }
      await volumes.require(id, call.signal);
      const why = volumeCapabilities.map(whyUnsupported).find((why) => why !== undefined);
      return why === undefined ? { confirmed: { volumeCapabilities, volumeContext, parameters } } : { message: why };
    },

    async listVolumes(request: ListVolumesRequest, call: CallContext) {
      const page = { token: request.startingToken, most: request.maxEntries };
      const { volumes: found, next } = await volumes.list(page, call.signal);
      return { entries: found.map(entry), nextToken: next };
    },

    async getCapacity(request: GetCapacityRequest, call: CallContext) {
      if (request.volumeCapabilities.some((capability) => whyUnsupported(capability))) return { availableCapacity: 0n };
      const { available, largest } = await volumes.available(request.parameters, call.signal);
      return { availableCapacity: available, maximumVolumeSize: largest, minimumVolumeSize: LEAST_SIZE };
    },

    async controllerExpandVolume(request: ControllerExpandVolumeRequest, call: CallContext) {
      const id = required(request.volumeId, "volume_id");
      if (!request.capacityRange) throw new InvalidArgument("capacity_range is missing: say how large it is to be");
      const nodes = expansion === "offline" ? await attachments.askers(id, call.signal) : [];
      if (nodes.length > 0) {
        throw new FailedPrecondition(
          `${id} is attached to ${
            nodes.join(" and ")
          }, and with --expansion=offline it grows only while no node has it: ` +
            "end the pods that use it; it grows when it is detached",
        );
      }
      const capacityBytes = await volumes.expand(id, rangeOf(request), call.signal);
      // Always: the node's half may still be missing from an earlier try, and is quick when it is not.
      return { capacityBytes, nodeExpansionRequired: true };
    },

    async controllerGetVolume(request: ControllerGetVolumeRequest, call: CallContext) {
      return entry(await volumes.require(required(request.volumeId, "volume_id"), call.signal));
    },

    controllerGetCapabilities() {
      return Promise.resolve({
        capabilities: capabilities.map((type) => ({ type: { case: "rpc" as const, value: { type } } })),
      });
    },
  };
}

/**
 * What the node must know of the moment. Kubernetes keeps it in the VolumeAttachment. The first four keys are the Go
 * driver's; the export's present NQN and size are in no PV.
 */
function publishContext(
  volume: Volume,
  request: ControllerPublishVolumeRequest,
  serverAddress: string,
): Record<string, string> {
  const context = request.volumeContext;
  const fsType = request.volumeCapability?.accessType.case === "mount"
    ? request.volumeCapability.accessType.value.fsType || context["fsType"] || "ext4"
    : "";
  return {
    nvme_address: context["nvmeAddress"] || context["rdsAddress"] || serverAddress,
    nvme_port: String(volume.port || context["nvmePort"] || 4420),
    nvme_nqn: volume.nqn,
    fs_type: fsType,
    size_bytes: String(volume.size),
    volume_id: volume.id,
    pv_name: context["csi.storage.k8s.io/pv/name"] ?? volume.id,
  };
}

function required(value: string, field: string): string {
  if (value !== "") return value;
  throw new InvalidArgument(`${field} is missing: give it`);
}

function rangeOf(request: { capacityRange?: CapacityRange | undefined }): SizeRange {
  return { required: request.capacityRange?.requiredBytes ?? 0n, limit: request.capacityRange?.limitBytes ?? 0n };
}
