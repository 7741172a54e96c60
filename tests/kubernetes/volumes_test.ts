import { assert, assertEquals, assertInstanceOf, assertRejects, assertStringIncludes } from "@std/assert";
import { KubeError } from "../lab/kubernetes/client.ts";
import { controllerUser, WORK } from "../lab/kubernetes/cluster.ts";
import * as objects from "../lab/kubernetes/objects.ts";
import { scenarios } from "./scenarios.ts";
import {
  assertNothingLeft,
  attach,
  attached,
  bound,
  detach,
  diskOf,
  disks,
  eventOf,
  files,
  makeClaim,
  makeClass,
  removeClaim,
} from "./steps.ts";

const scenario = scenarios();

scenario(
  "the API server is a real one, and the controller's service account may do no more than its role says",
  async (cluster) => {
    using client = cluster.controlPlane.client(controllerUser);
    assertEquals(await client.list(objects.persistentVolumes), []);
    const error = await assertRejects(() => client.delete(objects.nodes, { name: "node-c" }), KubeError);
    assertInstanceOf(error, KubeError);
    assertEquals([error.status, error.reason], [403, "Forbidden"]);
  },
);

scenario(
  "a claim becomes a volume with the size and the parameters that it asks for, and goes without a trace",
  async (cluster) => {
    await makeClass(cluster, "special", { nvmePort: "4421", ctrlLossTmo: "600", "csi.storage.k8s.io/fstype": "xfs" });
    const { metadata } = await makeClaim(cluster, "first", { size: "1500Mi", storageClassName: "special" });
    const { id, name, spec, csi } = await bound(cluster, "first");
    assertEquals(name, `pvc-${metadata.uid}`);
    assertEquals([spec.capacity.storage, csi.fsType], ["1500Mi", "xfs"]);
    const attributes = csi.volumeAttributes ?? {};
    assertEquals([attributes["nvmePort"], attributes["ctrlLossTmo"]], ["4421", "600"]);
    assertEquals(attributes["csi.storage.k8s.io/pvc/name"], "first");

    const disk = diskOf(cluster, id);
    assertEquals([disk?.["size"], disk?.["nvme-tcp-server-port"]], [1500 * 1024 ** 2, 4421]);
    assertEquals(disk?.["nvme-tcp-server-nqn"], attributes["nqn"]);
    assertStringIncludes(String(disk?.["comment"]), `${WORK}/first`);
    assertEquals(files(cluster), [attributes["volumePath"]?.slice(1)]);

    await removeClaim(cluster, "first");
    assertNothingLeft(cluster);
  },
);

scenario(
  "a ReadWriteOnce volume is attached to one node; the second gets it when the first lets go",
  async (cluster) => {
    await makeClaim(cluster, "once");
    const { id, name, csi } = await bound(cluster, "once");
    await attach(cluster, "once-a", { node: "node-a", volume: name });
    assertEquals(await attached(cluster, "once-a"), {
      nvme_address: cluster.simulator.host,
      nvme_port: "4420",
      nvme_nqn: csi.volumeAttributes?.["nqn"] ?? "",
      fs_type: "ext4",
      size_bytes: String(1024 ** 3),
      volume_id: id,
      pv_name: name,
    });

    await attach(cluster, "once-b", { node: "node-b", volume: name });
    const refused = await cluster.kube.until(
      objects.volumeAttachments,
      { name: "once-b" },
      ({ status }) => Boolean(status?.attachError?.message),
    );
    assertEquals(refused.status?.attached, false);
    assertStringIncludes(refused.status?.attachError?.message ?? "", "it is attached to node-a");

    await detach(cluster, "once-a");
    await attached(cluster, "once-b");
    await detach(cluster, "once-b");
    await removeClaim(cluster, "once");
    assertNothingLeft(cluster);
  },
);

scenario("a claim that is attached is deleted only after it was detached", async (cluster) => {
  await makeClaim(cluster, "held");
  const { id, name } = await bound(cluster, "held");
  await attach(cluster, "held-a", { node: "node-a", volume: name });
  await attached(cluster, "held-a");
  await cluster.kube.delete(objects.claims, { name: "held", namespace: WORK });
  await cluster.kube.until(objects.persistentVolumes, { name }, ({ status }) => status?.phase === "Released");
  assert(diskOf(cluster, id), "the disk of an attached volume is gone");
  await detach(cluster, "held-a");
  await cluster.kube.gone(objects.persistentVolumes, { name });
  assertNothingLeft(cluster);
});

scenario(
  "a claim grows: RouterOS at once, and the node's half is pending where there is no kubelet",
  async (cluster) => {
    await makeClaim(cluster, "growing");
    const { id, name } = await bound(cluster, "growing");
    await cluster.kube.patch(objects.claims, { name: "growing", namespace: WORK }, {
      spec: { resources: { requests: { storage: "2560Mi" } } },
    });
    const grown = await cluster.kube.until(
      objects.claims,
      { name: "growing", namespace: WORK },
      ({ status }) => status?.conditions?.some(({ type }) => type === "FileSystemResizePending") ?? false,
    );
    assertEquals(grown.status?.capacity?.storage, "1Gi");
    const { spec } = await cluster.kube.get(objects.persistentVolumes, { name });
    assertEquals(spec.capacity.storage, "2560Mi");
    assertEquals(diskOf(cluster, id)?.["size"], 2560 * 1024 ** 2);
    await removeClaim(cluster, "growing");
  },
);

scenario(
  "ReadWriteMany is given to block volumes, two nodes of them, and refused to filesystems on the claim",
  async (cluster) => {
    await makeClaim(cluster, "shared-fs", { accessModes: ["ReadWriteMany"] });
    const event = await eventOf(cluster, "shared-fs", "ReadWriteMany is for block volumes only");
    assertEquals([event.type, event.reason], ["Warning", "ProvisioningFailed"]);
    assertStringIncludes(event.message ?? "", "volumeMode: Block");
    assertEquals(files(cluster), []);
    await removeClaim(cluster, "shared-fs");

    await makeClaim(cluster, "shared-block", { accessModes: ["ReadWriteMany"], volumeMode: "Block" });
    const { name } = await bound(cluster, "shared-block");
    await attach(cluster, "shared-a", { node: "node-a", volume: name });
    await attach(cluster, "shared-b", { node: "node-b", volume: name });
    await Promise.all([attached(cluster, "shared-a"), attached(cluster, "shared-b")]);
    await attach(cluster, "shared-c", { node: "node-c", volume: name });
    const refused = await cluster.kube.until(
      objects.volumeAttachments,
      { name: "shared-c" },
      ({ status }) => Boolean(status?.attachError?.message),
    );
    assertStringIncludes(refused.status?.attachError?.message ?? "", "two nodes at once");
    for (const attachment of ["shared-c", "shared-a", "shared-b"]) await detach(cluster, attachment);
    await removeClaim(cluster, "shared-block");
  },
);

scenario("a wrong parameter of a StorageClass is named in an event on the claim", async (cluster) => {
  await makeClass(cluster, "wrong", { nvmePort: "70000", replicas: "3" });
  await makeClaim(cluster, "unlucky", { storageClassName: "wrong" });
  const { message } = await eventOf(cluster, "unlucky", "StorageClass parameters are wrong");
  assertStringIncludes(message ?? "", "nvmePort='70000'");
  assertStringIncludes(message ?? "", "'replicas' is unknown");
  await removeClaim(cluster, "unlucky");
  assertEquals(files(cluster), []);
});

scenario(
  "ten claims at once while RouterOS is cut, hangs and reboots: nothing twice, nothing lost",
  async (cluster) => {
    const { simulator } = cluster;
    const names = Array.from({ length: 10 }, (_, number) => `many-${number}`);
    simulator.setLatency("disk add", 200);
    // Few, because the driver waits longer with each cut before it connects again.
    for (const when of ["middle", "after"] as const) simulator.faults.cut(when, "disk add");
    simulator.faults.hang("disk add");
    const adds = simulator.state().commands["disk add"] ?? 0;
    await Promise.all(names.map((name) => makeClaim(cluster, name)));
    const hasBegun = () => (simulator.state().commands["disk add"] ?? 0) >= adds + 4;
    await cluster.kube.wait("the first adds", () => hasBegun() || undefined);
    await simulator.faults.reboot(1000);
    const volumes = await Promise.all(names.map((name) => bound(cluster, name)));
    assertEquals(simulator.state().faults, 0, "not every fault happened");
    const ids = volumes.map(({ id }) => id).sort();
    assertEquals(new Set(ids).size, names.length);
    assertEquals(disks(cluster).map(({ slot }) => slot), ids);
    assertEquals(files(cluster), volumes.map(({ csi }) => csi.volumeAttributes?.["volumePath"]?.slice(1) ?? "").sort());

    simulator.faults.cut("middle", "disk remove");
    simulator.setLatency("disk add", 0);
    await Promise.all(names.map((name) => removeClaim(cluster, name)));
    assertEquals(simulator.state().faults, 0, "not every fault happened");
    assertNothingLeft(cluster);
  },
);

scenario("the sidecars did all that without being refused anything by RBAC", (cluster) => {
  const lines = cluster.replica.outputs.flatMap(({ output }) => output.split("\n"));
  assert(lines.length > 50, "the sidecars have written next to nothing");
  assertEquals(lines.filter((line) => /forbidden/i.test(line)), []);
  return Promise.resolve();
});

scenario(
  "a controller that dies while it makes volumes goes on where it was: nothing twice, nothing lost",
  async (cluster) => {
    const { simulator } = cluster;
    const names = Array.from({ length: 5 }, (_, number) => `crash-${number}`);
    simulator.setLatency("disk add", 500);
    const adds = simulator.state().commands["disk add"] ?? 0;
    await Promise.all(names.map((name) => makeClaim(cluster, name)));
    const hasBegun = () => (simulator.state().commands["disk add"] ?? 0) > adds;
    await cluster.kube.wait("the first add", () => hasBegun() || undefined);
    await cluster.crash();
    const volumes = await Promise.all(names.map((name) => bound(cluster, name)));
    assertEquals(disks(cluster).map(({ slot }) => slot), volumes.map(({ id }) => id).sort());
    assertEquals(new Set(volumes.map(({ id }) => id)).size, names.length);

    simulator.setLatency("disk add", 0);
    await Promise.all(names.map((name) => removeClaim(cluster, name)));
    assertNothingLeft(cluster);
  },
);
