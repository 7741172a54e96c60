import type { MessageInitShape } from "@bufbuild/protobuf";
import { status } from "@grpc/grpc-js";
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import {
  Controller,
  VolumeCapability_AccessMode_Mode as Mode,
  type VolumeCapabilitySchema,
} from "../../proto/gen/csi_pb.ts";
import { type RouterOs, routerOs, type RouterOsOptions, until } from "../../tests/lab/routeros.ts";
import { MemoryAttachments } from "../attachments/memory.ts";
import { Metrics } from "../runtime/metrics.ts";
import { controllerService } from "./controller.ts";
import { type Client, connect } from "./rpc.ts";
import { CsiServer } from "./server.ts";

const GIB = 1n << 30n;
type Capability = MessageInitShape<typeof VolumeCapabilitySchema>;

function mount(mode = Mode.SINGLE_NODE_WRITER, fsType = ""): Capability {
  return { accessMode: { mode }, accessType: { case: "mount", value: { fsType } } };
}
function block(mode = Mode.SINGLE_NODE_WRITER): Capability {
  return { accessMode: { mode }, accessType: { case: "block", value: {} } };
}

interface Cluster extends AsyncDisposable {
  rds: RouterOs;
  client: Client<typeof Controller>;
}

/** The Controller service over a real socket and a real SSH connection to a simulated RouterOS. */
async function cluster(options?: RouterOsOptions, expansion: "online" | "offline" = "online"): Promise<Cluster> {
  const rds = await routerOs(options);
  const server = new CsiServer({ socket: `${rds.folder}/run/csi.sock`, metrics: new Metrics("1") });
  const attachments = new MemoryAttachments(["n1", "n2", "n3"]);
  server.add(
    Controller,
    controllerService({ volumes: rds.volumes, attachments, expansion, serverAddress: "10.0.0.1" }),
  );
  await server.start();
  const client = connect(Controller, `${rds.folder}/run/csi.sock`);
  return {
    rds,
    client,
    async [Symbol.asyncDispose]() {
      client[Symbol.dispose]();
      await server.stop(1000);
      await rds[Symbol.asyncDispose]();
    },
  };
}

/** The status that a call ends with, by name, and its text. */
async function ending(call: Promise<unknown>): Promise<{ code: string; details: string }> {
  try {
    await call;
    return { code: "OK", details: "" };
  } catch (error) {
    const { code, details } = error as { code: status; details: string };
    return { code: status[code] ?? String(error), details };
  }
}

function volume(name = "v", capability = mount()) {
  return { name, volumeCapabilities: [capability], capacityRange: { requiredBytes: GIB } };
}

async function made(client: Client<typeof Controller>, name = "v", capability = mount()) {
  const { volume: created } = await client.createVolume(volume(name, capability));
  assert(created);
  return { volumeId: created.volumeId, volumeContext: created.volumeContext };
}

Deno.test("Controller: bad requests are INVALID_ARGUMENT, say what is wrong, and leave nothing behind", async () => {
  await using it = await cluster();
  const { client } = it;
  const snapshot = { type: { case: "snapshot" as const, value: { snapshotId: "s" } } };
  const wrong: [() => Promise<unknown>, string][] = [
    [() => client.createVolume({ ...volume(), name: "" }), "no name"],
    [() => client.createVolume({ name: "v" }), "volume_capabilities is empty"],
    [
      () => client.createVolume(volume("v", { accessMode: { mode: Mode.SINGLE_NODE_WRITER } })),
      "neither mount nor block",
    ],
    [() => client.createVolume(volume("v", { accessType: { case: "block", value: {} } })), "no access mode"],
    [() => client.createVolume(volume("v", mount(Mode.SINGLE_NODE_WRITER, "zfs"))), "no fsType 'zfs'"],
    [() => client.createVolume(volume("v", mount(Mode.MULTI_NODE_MULTI_WRITER))), "volumeMode: Block"],
    [() => client.createVolume(volume("v", block(Mode.MULTI_NODE_READER_ONLY))), "MULTI_NODE_READER_ONLY"],
    [() => client.createVolume(volume("v", block(Mode.SINGLE_NODE_READER_ONLY))), "cannot be kept read-only"],
    [() => client.createVolume({ ...volume(), parameters: { colour: "red" } }), "'colour' is unknown"],
    [() => client.createVolume({ ...volume(), parameters: { nvmePort: '4420"; /system reset' } }), "nvmePort"],
    [() => client.createVolume({ ...volume(), volumeContentSource: snapshot }), "dataSource"],
    [() => client.createVolume({ ...volume(), mutableParameters: { a: "b" } }), "VolumeAttributesClass"],
    [() => client.deleteVolume({}), "volume_id is missing"],
    [() => client.controllerPublishVolume({ volumeId: "v" }), "node_id is missing"],
    [() => client.controllerPublishVolume({ volumeId: "v", nodeId: "n1" }), "volume_capability is missing"],
    [() => client.controllerUnpublishVolume({}), "volume_id is missing"],
    [() => client.validateVolumeCapabilities({ volumeId: "v" }), "volume_capabilities is empty"],
    [() => client.controllerExpandVolume({ volumeId: "v" }), "capacity_range is missing"],
    [() => client.listVolumes({ maxEntries: -1 }), "negative"],
  ];
  for (const [call, text] of wrong) {
    const { code, details } = await ending(call());
    assertEquals(code, "INVALID_ARGUMENT", text);
    assertStringIncludes(details, text);
  }
  assertEquals(it.rds.simulator.state().files, []);
});

Deno.test("Controller: what is not there is NOT_FOUND, but deleting and detaching it is fine", async () => {
  await using it = await cluster();
  const { client } = it;
  const volumeId = "pvc-" + "0".repeat(28);
  const capability = { volumeCapability: mount() };
  const missing = [
    () => client.controllerPublishVolume({ volumeId, nodeId: "n1", ...capability }),
    () => client.validateVolumeCapabilities({ volumeId, volumeCapabilities: [mount()] }),
    () => client.controllerGetVolume({ volumeId }),
    () => client.controllerExpandVolume({ volumeId, capacityRange: { requiredBytes: GIB } }),
  ];
  for (const call of missing) assertEquals((await ending(call())).code, "NOT_FOUND");
  const existing = await made(client);
  const elsewhere = client.controllerPublishVolume({ ...existing, nodeId: "n9", ...capability });
  assertEquals((await ending(elsewhere)).code, "NOT_FOUND");
  assertEquals((await ending(client.deleteVolume({ volumeId }))).code, "OK");
  assertEquals((await ending(client.controllerUnpublishVolume({ volumeId, nodeId: "n9" }))).code, "OK");
});

Deno.test("Controller: a ReadWriteOnce volume has one node, is not deleted while it has, and lists its node", async () => {
  await using it = await cluster();
  const { client } = it;
  const existing = await made(client);
  const publish = (nodeId: string) =>
    client.controllerPublishVolume({ ...existing, nodeId, volumeCapability: mount() });
  const { publishContext } = await publish("n1");
  assertEquals(await publish("n1").then((again) => again.publishContext), publishContext);
  const refused = await ending(publish("n2"));
  assertEquals(refused.code, "FAILED_PRECONDITION");
  assertStringIncludes(refused.details, "attached to n1");
  assertEquals((await ending(client.deleteVolume(existing))).code, "FAILED_PRECONDITION");
  const { entries } = await client.listVolumes({});
  assertEquals(entries[0]?.status?.publishedNodeIds, ["n1"]);
  assertEquals((await client.controllerGetVolume(existing)).status?.publishedNodeIds, ["n1"]);
  await client.controllerUnpublishVolume(existing);
  await publish("n2");
  await client.controllerUnpublishVolume({ ...existing, nodeId: "n2" });
  await client.deleteVolume(existing);
  assertEquals(it.rds.simulator.state().files, []);
});

Deno.test("Controller: a ReadWriteMany block volume has two nodes at most", async () => {
  await using it = await cluster();
  const existing = await made(it.client, "rwx", block(Mode.MULTI_NODE_MULTI_WRITER));
  const volumeCapability = block(Mode.MULTI_NODE_MULTI_WRITER);
  const publish = (nodeId: string) => it.client.controllerPublishVolume({ ...existing, nodeId, volumeCapability });
  await publish("n1");
  await publish("n2");
  assertEquals((await ending(publish("n3"))).code, "FAILED_PRECONDITION");
});

Deno.test("Controller: the publish context holds what the node must know, with defaults for PVs of old", async () => {
  await using it = await cluster();
  const { volumeId, volumeContext } = await made(it.client);
  const publish = (volumeContext: Record<string, string>, fsType = "") =>
    it.client.controllerPublishVolume({
      volumeId,
      volumeContext,
      nodeId: "n1",
      volumeCapability: mount(undefined, fsType),
    });
  const expected = {
    nvme_address: "10.0.0.1",
    nvme_port: "4420",
    nvme_nqn: `nqn.2000-02.com.mikrotik:${volumeId}`,
    fs_type: "ext4",
    size_bytes: String(GIB),
    volume_id: volumeId,
    pv_name: volumeId,
  };
  assertEquals((await publish(volumeContext)).publishContext, expected);
  assertEquals((await publish({})).publishContext, expected);
  const other = await publish({ nvmeAddress: "10.1.1.1", "csi.storage.k8s.io/pv/name": "pv-1" }, "xfs");
  assertEquals(other.publishContext, { ...expected, nvme_address: "10.1.1.1", fs_type: "xfs", pv_name: "pv-1" });
});

Deno.test("Controller: ValidateVolumeCapabilities confirms what CreateVolume takes, and says why not", async () => {
  await using it = await cluster();
  const { volumeId } = await made(it.client);
  const validate = (capability: Capability) =>
    it.client.validateVolumeCapabilities({ volumeId, volumeCapabilities: [capability] });
  for (const capability of [mount(), mount(Mode.SINGLE_NODE_MULTI_WRITER), block(Mode.MULTI_NODE_MULTI_WRITER)]) {
    assert((await validate(capability)).confirmed);
  }
  const refused = await validate(mount(Mode.MULTI_NODE_MULTI_WRITER));
  assertEquals(refused.confirmed, undefined);
  assertStringIncludes(refused.message, "block volumes only");
});

Deno.test("Controller: the second of two changes of one volume is ABORTED, other volumes and reads go on", async () => {
  await using it = await cluster();
  const { client, rds } = it;
  const existing = await made(client, "other");
  rds.simulator.setLatency("disk add", 300);
  const first = client.createVolume(volume("slow"));
  await until(() => (rds.simulator.state().commands["disk add"] ?? 0) >= 2, "the create is under way");
  assertEquals((await ending(client.createVolume(volume("slow")))).code, "ABORTED");
  assertEquals((await client.controllerGetVolume(existing)).volume?.volumeId, existing.volumeId);
  assertEquals((await ending(client.deleteVolume(existing))).code, "OK");
  await first;
});

Deno.test("Controller: a create and a delete of one volume exclude each other, by whichever name it is called", async () => {
  await using it = await cluster();
  const { client, rds } = it;
  const name = "pvc-0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9";
  const volumeId = "pvc-0a1b2c3d4e5f60718293a4b5c6d7";
  rds.simulator.setLatency("disk add", 300);
  const creating = client.createVolume(volume(name));
  await until(() => (rds.simulator.state().commands["disk add"] ?? 0) === 1, "the create is under way");
  for (const id of [volumeId, name]) {
    assertEquals((await ending(client.deleteVolume({ volumeId: id }))).code, "ABORTED");
  }
  await creating;
  rds.simulator.setLatency("disk remove", 300);
  const deleting = client.deleteVolume({ volumeId });
  await until(() => (rds.simulator.state().commands["disk remove"] ?? 0) === 1, "the delete is under way");
  assertEquals((await ending(client.createVolume(volume(name)))).code, "ABORTED");
  await deleting;
});

Deno.test("Controller: with offline expansion a volume grows only while no node has it", async () => {
  await using it = await cluster({}, "offline");
  const existing = await made(it.client);
  const grow = () => it.client.controllerExpandVolume({ ...existing, capacityRange: { requiredBytes: 2n * GIB } });
  await it.client.controllerPublishVolume({ ...existing, nodeId: "n1", volumeCapability: mount() });
  const refused = await ending(grow());
  assertEquals(refused.code, "FAILED_PRECONDITION");
  assertStringIncludes(refused.details, "attached to n1");
  assertEquals((await it.rds.volumes.require(existing.volumeId)).size, GIB);
  await it.client.controllerUnpublishVolume(existing);
  assertEquals((await grow()).capacityBytes, 2n * GIB);
});

Deno.test("Controller: the caller's deadline ends the wait for RouterOS, and the retry finds one volume", async () => {
  await using it = await cluster();
  const { client, rds } = it;
  await client.getCapacity({});
  rds.simulator.setLatency("disk add", 300);
  const late = await ending(client.createVolume(volume(), { deadline: 50 }));
  assertEquals(late.code, "DEADLINE_EXCEEDED");
  await until(async () => (await ending(client.createVolume(volume()))).code === "OK", "the retry succeeds");
  assertEquals(rds.simulator.state().commands["disk add"], 1);
});

Deno.test("Controller: no answer of a create whose outcome is unknown is one that lets the provisioner forget it", async () => {
  const waits = ["UNAVAILABLE", "ABORTED", "DEADLINE_EXCEEDED", "CANCELLED"];
  for (const when of ["before", "middle", "after", "answer"] as const) {
    await using it = await cluster();
    await it.client.getCapacity({});
    it.rds.simulator.faults.cut(when, "disk add");
    const { code } = await ending(it.client.createVolume(volume()));
    assert(waits.includes(code), `${when}: ${code}`);
    const again = await ending(it.client.createVolume(volume()));
    assert(waits.includes(again.code) || again.code === "OK", `${when}: ${again.code}`);
  }
});

Deno.test("Controller: with RouterOS away every call is UNAVAILABLE, and Kubernetes may try again", async () => {
  await using it = await cluster();
  const existing = await made(it.client);
  it.rds.simulator.faults.reboot(10_000).catch(() => {});
  const calls = [
    () => it.client.createVolume(volume()),
    () => it.client.deleteVolume(existing),
    () => it.client.getCapacity({}),
    () => it.client.listVolumes({}),
    () => it.client.controllerGetVolume(existing),
    () => it.client.controllerExpandVolume({ ...existing, capacityRange: { requiredBytes: GIB } }),
    () => it.client.controllerPublishVolume({ ...existing, nodeId: "n1", volumeCapability: mount() }),
  ];
  for (const call of calls) assertEquals((await ending(call())).code, "UNAVAILABLE");
  assertEquals((await ending(it.client.controllerUnpublishVolume({ ...existing, nodeId: "n1" }))).code, "OK");
});
