import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { assert, assertEquals, assertRejects } from "@std/assert";
import {
  NodeExpandVolumeRequestSchema,
  NodeGetCapabilitiesRequestSchema,
  NodeGetInfoRequestSchema,
  NodeGetVolumeStatsRequestSchema,
  NodePublishVolumeRequestSchema,
  NodeStageVolumeRequestSchema,
  NodeUnpublishVolumeRequestSchema,
  NodeUnstageVolumeRequestSchema,
  VolumeCapability_AccessMode_Mode as Mode,
  type VolumeCapabilitySchema,
} from "../../proto/gen/csi_pb.ts";
import { GiB, prefix, TestNode } from "../../tests/nvme/node.ts";
import { RecordingCommands, whyNoStandIn } from "../../tests/nvme/stand_in.ts";
import { FailedPrecondition, InvalidArgument, NotFound } from "../runtime/errors.ts";
import { stagingParts } from "../staging/parts.ts";
import { nodeService } from "./node.ts";

const call = { method: "", signal: new AbortController().signal, requestNumber: 1 };

function service(node?: TestNode) {
  const roots = node?.standIn.roots ?? { proc: "/nonexistent", sysfs: "/nonexistent", dev: "/nonexistent" };
  const commands = node?.commands ?? new RecordingCommands();
  const recordsFolder = node?.path("records") ?? "/nonexistent";
  const parts = stagingParts({ commands, roots, prefix, recordsFolder });
  const handlers = nodeService(parts, { nodeId: "node-1", maxVolumesPerNode: 7 });
  return handlers as Required<typeof handlers>;
}

type CapabilityInit = MessageInitShape<typeof VolumeCapabilitySchema>;

function mount(mode = Mode.SINGLE_NODE_WRITER, fsType = "ext4", mountFlags: string[] = []): CapabilityInit {
  return { accessType: { case: "mount", value: { fsType, mountFlags } }, accessMode: { mode } };
}

const volumeId = `pvc-${"0".repeat(28)}`;

Deno.test("nodeStageVolume() and nodePublishVolume() refuse requests that lack a field or hold a wrong one", async () => {
  const { nodeStageVolume, nodePublishVolume } = service();
  const good = { volumeId, stagingTargetPath: "/staging", volumeCapability: mount() };
  const bad: [string, Partial<typeof good>][] = [
    ["volume_id", { volumeId: "" }],
    ["no volume of this driver", { volumeId: "nixos-var" }],
    ["staging_target_path", { stagingTargetPath: "" }],
    ["absolute", { stagingTargetPath: "staging" }],
    ["absolute", { stagingTargetPath: "/staging/../etc" }],
    ["neither mount nor block", { volumeCapability: { accessMode: { mode: Mode.SINGLE_NODE_WRITER } } }],
    ["KubeVirt", { volumeCapability: mount(Mode.MULTI_NODE_MULTI_WRITER) }],
    ["btrfs", { volumeCapability: mount(Mode.SINGLE_NODE_WRITER, "btrfs") }],
  ];
  for (const [why, change] of bad) {
    const request = create(NodeStageVolumeRequestSchema, { ...good, ...change });
    await assertRejects(() => nodeStageVolume(request, call), InvalidArgument, why);
    const publish = create(NodePublishVolumeRequestSchema, { ...good, targetPath: "/target", ...change });
    await assertRejects(() => nodePublishVolume(publish, call), InvalidArgument, why);
  }
  const without = create(NodeStageVolumeRequestSchema, { volumeId, stagingTargetPath: "/staging" });
  await assertRejects(() => nodeStageVolume(without, call), InvalidArgument, "volume_capability");
  const noTarget = create(NodePublishVolumeRequestSchema, good);
  await assertRejects(() => nodePublishVolume(noTarget, call), InvalidArgument, "target_path");
});

Deno.test("the other Node calls refuse requests that lack a field", async () => {
  const { nodeUnstageVolume, nodeUnpublishVolume, nodeGetVolumeStats, nodeExpandVolume } = service();
  for (const id of ["", volumeId]) {
    const why = id === "" ? "volume_id" : "path";
    await assertRejects(
      () => nodeUnstageVolume(create(NodeUnstageVolumeRequestSchema, { volumeId: id }), call),
      InvalidArgument,
      why,
    );
    await assertRejects(
      () => nodeUnpublishVolume(create(NodeUnpublishVolumeRequestSchema, { volumeId: id }), call),
      InvalidArgument,
      why,
    );
    await assertRejects(
      () => nodeGetVolumeStats(create(NodeGetVolumeStatsRequestSchema, { volumeId: id }), call),
      InvalidArgument,
      why,
    );
    await assertRejects(
      () => nodeExpandVolume(create(NodeExpandVolumeRequestSchema, { volumeId: id }), call),
      InvalidArgument,
      why,
    );
  }
});

Deno.test("nodeGetInfo() and nodeGetCapabilities() say who and what the node is", async () => {
  const { nodeGetInfo, nodeGetCapabilities } = service();
  assertEquals(await nodeGetInfo(create(NodeGetInfoRequestSchema), call), {
    nodeId: "node-1",
    maxVolumesPerNode: 7n,
    accessibleTopology: { segments: { "topology.rds.csi.srvlab.io/zone": "default" } },
  });
  assertEquals((await nodeGetCapabilities(create(NodeGetCapabilitiesRequestSchema), call)).capabilities?.length, 5);
});

Deno.test({
  name: "the Node service takes a filesystem through its life, and knows the access modes",
  ignore: await whyNoStandIn() !== undefined,
  async fn() {
    await using node = await TestNode.start();
    const { volumeId, stagingPath: stagingTargetPath, publishContext } = await node.volume("xfs");
    const csi = service(node);
    const volume = { volumeId, stagingTargetPath, publishContext: { ...publishContext } };
    const unknown = create(NodeGetVolumeStatsRequestSchema, { volumeId, volumePath: "some/path" });
    await assertRejects(() => csi.nodeGetVolumeStats(unknown, call), NotFound);
    const single = mount(Mode.SINGLE_NODE_SINGLE_WRITER, "xfs", ["noatime"]);
    await csi.nodeStageVolume(create(NodeStageVolumeRequestSchema, { ...volume, volumeCapability: single }), call);
    const targetPath = node.path("target");
    const published = { ...volume, targetPath, volumeCapability: single };
    await csi.nodePublishVolume(create(NodePublishVolumeRequestSchema, published), call);
    const second = create(NodePublishVolumeRequestSchema, { ...published, targetPath: node.path("second") });
    await assertRejects(() => csi.nodePublishVolume(second, call), FailedPrecondition, "ReadWriteOncePod");
    const reader = {
      ...published,
      targetPath: second.targetPath,
      volumeCapability: mount(Mode.SINGLE_NODE_READER_ONLY, "xfs"),
    };
    await csi.nodePublishVolume(create(NodePublishVolumeRequestSchema, reader), call);
    assert((await node.parts.mounts.at(second.targetPath))?.options.includes("ro"));

    await node.server.offer(node.nqn({ publishContext } as never), 2 * GiB);
    const grow = { volumeId, volumePath: targetPath, capacityRange: { requiredBytes: BigInt(2 * GiB) } };
    const { capacityBytes } = await csi.nodeExpandVolume(create(NodeExpandVolumeRequestSchema, grow), call);
    assertEquals(capacityBytes, BigInt(2 * GiB));
    const asked = create(NodeGetVolumeStatsRequestSchema, { volumeId, volumePath: targetPath });
    const { usage, volumeCondition } = await csi.nodeGetVolumeStats(asked, call);
    assertEquals([usage?.length, volumeCondition?.abnormal], [2, false]);

    for (const path of [targetPath, second.targetPath]) {
      await csi.nodeUnpublishVolume(create(NodeUnpublishVolumeRequestSchema, { volumeId, targetPath: path }), call);
    }
    await csi.nodeUnstageVolume(create(NodeUnstageVolumeRequestSchema, { volumeId, stagingTargetPath }), call);
    assertEquals((await node.parts.sessions.ofVolume(volumeId)).length, 0);
  },
});

Deno.test("the Node service refuses a path with NUL, and a block volume that is to be read-only", async () => {
  const { nodeUnpublishVolume, nodeGetVolumeStats, nodeStageVolume, nodePublishVolume } = service();
  const nul = { volumeId, targetPath: "/a\0b", volumePath: "/a\0b" };
  const unpublish = create(NodeUnpublishVolumeRequestSchema, nul);
  await assertRejects(() => nodeUnpublishVolume(unpublish, call), InvalidArgument, "NUL");
  const stats = create(NodeGetVolumeStatsRequestSchema, nul);
  await assertRejects(() => nodeGetVolumeStats(stats, call), InvalidArgument, "NUL");
  const block = (mode: Mode): CapabilityInit => ({
    accessType: { case: "block", value: {} },
    accessMode: { mode },
  });
  const volume = { volumeId, stagingTargetPath: "/staging", targetPath: "/target" };
  const reader = { ...volume, volumeCapability: block(Mode.SINGLE_NODE_READER_ONLY) };
  const staging = create(NodeStageVolumeRequestSchema, { ...reader, publishContext: { nvme_address: "10.0.0.1" } });
  await assertRejects(() => nodeStageVolume(staging, call), InvalidArgument, "read-only");
  const publish = create(NodePublishVolumeRequestSchema, reader);
  await assertRejects(() => nodePublishVolume(publish, call), InvalidArgument, "read-only");
  const readonly = { ...volume, volumeCapability: block(Mode.SINGLE_NODE_WRITER), readonly: true };
  const writer = create(NodePublishVolumeRequestSchema, readonly);
  await assertRejects(() => nodePublishVolume(writer, call), InvalidArgument, "read-only");
});

Deno.test({
  name: "the Node service names the kubelet's folder for a path that it has no permission for",
  permissions: { read: ["/var/lib/kubelet"], write: ["/var/lib/kubelet"] },
  async fn() {
    const { nodeUnpublishVolume, nodeGetVolumeStats } = service();
    const outside = { volumeId, targetPath: "/mnt/pods/x", volumePath: "/mnt/pods/x" };
    const unpublish = create(NodeUnpublishVolumeRequestSchema, outside);
    await assertRejects(() => nodeUnpublishVolume(unpublish, call), InvalidArgument, "/var/lib/kubelet");
    const stats = create(NodeGetVolumeStatsRequestSchema, outside);
    await assertRejects(() => nodeGetVolumeStats(stats, call), InvalidArgument, "/var/lib/kubelet");
  },
});
