import { isAbsolute } from "node:path";
import {
  type Node,
  type NodeExpandVolumeRequest,
  type NodeGetVolumeStatsRequest,
  type NodePublishVolumeRequest,
  NodeServiceCapability_RPC_Type as Rpc,
  type NodeStageVolumeRequest,
  type NodeUnpublishVolumeRequest,
  type NodeUnstageVolumeRequest,
  type VolumeCapability,
  VolumeCapability_AccessMode_Mode as Mode,
  VolumeUsage_Unit as Unit,
} from "../../proto/gen/csi_pb.ts";
import { InvalidArgument, NotFound } from "../runtime/errors.ts";
import { attemptPublish, attemptStage, attemptUnpublish, attemptUnstage } from "../staging/attempts.ts";
import { expand } from "../staging/expand.ts";
import type { StagingParts, Usage } from "../staging/parts.ts";
import { stats } from "../staging/stats.ts";
import type { Capability, VolumeInput } from "../staging/volume.ts";
import { useOf } from "./capability.ts";
import type { CallContext, Handlers } from "./server.ts";

/** What the handlers tell of this node. */
export interface NodeOptions {
  nodeId: string;
  /** How many volumes Kubernetes may attach here; 0: no limit. */
  maxVolumesPerNode: number;
}

const capabilities = [
  Rpc.STAGE_UNSTAGE_VOLUME,
  Rpc.GET_VOLUME_STATS,
  Rpc.EXPAND_VOLUME,
  Rpc.VOLUME_CONDITION,
  Rpc.SINGLE_NODE_MULTI_WRITER,
];

/** Nodes are not told apart, but PVs of the Go driver rds-csi may ask for this segment. */
const topology = { segments: { "topology.rds.csi.srvlab.io/zone": "default" } };

/** The Node service: check the fields, one call, the answer. */
export function nodeService(parts: StagingParts, options: NodeOptions): Handlers<typeof Node> {
  return {
    async nodeStageVolume(request: NodeStageVolumeRequest, call: CallContext) {
      await attemptStage(parts, { ...volumeOf(request), readOnly: isReaderOnly(request) }, call);
      return {};
    },

    async nodeUnstageVolume(request: NodeUnstageVolumeRequest, call: CallContext) {
      const { volumeId, stagingTargetPath: stagingPath } = request;
      await attemptUnstage(parts, {
        volumeId: required(volumeId, "volume_id"),
        stagingPath: path(stagingPath, "staging_target_path"),
      }, call);
      return {};
    },

    async nodePublishVolume(request: NodePublishVolumeRequest, call: CallContext) {
      const targetPath = path(request.targetPath, "target_path");
      const readOnly = request.readonly || isReaderOnly(request);
      const exclusive = modeOf(request) === Mode.SINGLE_NODE_SINGLE_WRITER;
      await attemptPublish(parts, { ...volumeOf(request), targetPath, readOnly, exclusive }, call);
      return {};
    },

    async nodeUnpublishVolume(request: NodeUnpublishVolumeRequest, call: CallContext) {
      const { volumeId, targetPath } = request;
      await attemptUnpublish(parts, {
        volumeId: required(volumeId, "volume_id"),
        targetPath: path(targetPath, "target_path"),
      }, call);
      return {};
    },

    async nodeGetVolumeStats(request: NodeGetVolumeStatsRequest, call: CallContext) {
      const volumeId = required(request.volumeId, "volume_id");
      const volumePath = volumePathOf(request);
      const { usage, condition } = await stats(parts, { volumeId, volumePath }, call);
      return { usage: usage.map(usageMessage), volumeCondition: condition };
    },

    async nodeExpandVolume(request: NodeExpandVolumeRequest, call: CallContext) {
      const volumeId = required(request.volumeId, "volume_id");
      const volumePath = volumePathOf(request);
      const requiredBytes = Number(request.capacityRange?.requiredBytes ?? 0n);
      return { capacityBytes: BigInt(await expand(parts, { volumeId, volumePath, requiredBytes }, call)) };
    },

    nodeGetInfo: () =>
      Promise.resolve({
        nodeId: options.nodeId,
        maxVolumesPerNode: BigInt(options.maxVolumesPerNode),
        accessibleTopology: topology,
      }),

    nodeGetCapabilities: () =>
      Promise.resolve({
        capabilities: capabilities.map((type) => ({ type: { case: "rpc" as const, value: { type } } })),
      }),
  };
}

type VolumeRequest = NodeStageVolumeRequest | NodePublishVolumeRequest;

function volumeOf(request: VolumeRequest): Omit<VolumeInput, "readOnly"> {
  return {
    volumeId: required(request.volumeId, "volume_id"),
    stagingPath: path(request.stagingTargetPath, "staging_target_path"),
    capability: capabilityOf(request.volumeCapability),
    publishContext: request.publishContext,
    volumeContext: request.volumeContext,
  };
}

function capabilityOf(capability: VolumeCapability | undefined): Capability {
  const { kind, fsType } = useOf(capability);
  if (kind === "block" || capability?.accessType.case !== "mount") return { kind: "block" };
  return { kind, fsType, mountOptions: capability.accessType.value.mountFlags };
}

function modeOf(request: VolumeRequest): Mode {
  return request.volumeCapability?.accessMode?.mode ?? Mode.UNKNOWN;
}

function isReaderOnly(request: VolumeRequest): boolean {
  return modeOf(request) === Mode.SINGLE_NODE_READER_ONLY;
}

function required(value: string, field: string): string {
  if (value !== "") return value;
  throw new InvalidArgument(`${field} is missing: give it`);
}

function path(value: string, field: string): string {
  if (!isAbsolute(required(value, field)) || value.includes("\0") || value.split("/").includes("..")) {
    throw new InvalidArgument(`${field} ${JSON.stringify(value)} is no absolute path without '..' and NUL: give one`);
  }
  const granted = (["read", "write"] as const).every((name) =>
    Deno.permissions.querySync({ name, path: value }).state === "granted"
  );
  if (granted) return value;
  throw new InvalidArgument(
    `${field} '${value}' lies outside of what the driver may touch, the kubelet's folder /var/lib/kubelet: where the kubelet ` +
      "has another one (--root-dir), start the driver with permission to read and write that (-A, or --allow-read and --allow-write)",
  );
}

/** A path where a volume is said to be. Of a relative one it is known that nothing of ours is there. */
function volumePathOf({ volumeId, volumePath }: NodeGetVolumeStatsRequest | NodeExpandVolumeRequest): string {
  if (isAbsolute(required(volumePath, "volume_path"))) return path(volumePath, "volume_path");
  throw new NotFound(`volume ${volumeId} is not at '${volumePath}', which is no absolute path: give the path it is at`);
}

function usageMessage({ unit, total, used, available }: Usage) {
  return {
    unit: unit === "bytes" ? Unit.BYTES : Unit.INODES,
    total: BigInt(total),
    ...(used === undefined ? {} : { used: BigInt(used) }),
    ...(available === undefined ? {} : { available: BigInt(available) }),
  };
}
