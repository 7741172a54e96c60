/**
 * What the older driver of the same name (rds-csi in Go, v0.11) has left behind goes on under this one, and the way back
 * stays open.
 * @module
 */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { PREFIX } from "../lab/driver.ts";
import { type Cluster, DRIVER, WORK } from "../lab/kubernetes/cluster.ts";
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
  files,
  makeClaim,
  makeClass,
  refusedBecause,
  removeClaim,
} from "./steps.ts";

// Its slots are longer than what RouterOS is documented to take; where its volumes are, they were taken.
const scenario = scenarios({ simulator: { guesses: { longestSlot: 64 } } });

const BASE = "storage-pool/metal-csi";
const NODE = "rds.csi.srvlab.io/attached-node";
const AT = "rds.csi.srvlab.io/attached-at";
const MOUNTS = "mount-filesystem";

/** All parameters that its StorageClasses could have. */
const parameters = {
  volumePath: `/${BASE}`,
  nvmeAddress: "10.42.68.1",
  rdsAddress: "10.42.67.1",
  nvmePort: "4421",
  sshPort: "22",
  nqnPrefix: "nqn.2000-02.com.mikrotik",
  ctrlLossTmo: "600",
  reconnectDelay: "10",
  keepAliveTmo: "30",
  migrationTimeoutSeconds: "120",
  fsType: "xfs",
};

function newId(): string {
  return `pvc-${crypto.randomUUID()}`;
}

function nqnOf(id: string): string {
  return PREFIX + id.slice("pvc-".length);
}

/** The row that it makes, by its own command; RouterOS mounts what it is not told to leave. */
async function addDisk({ simulator }: Cluster, id: string, size = "1G"): Promise<void> {
  const place = `type=file file-path=/${BASE}/${id}.img file-size=${size} slot=${id}`;
  const shown = `nvme-tcp-export=yes nvme-tcp-server-port=4420 nvme-tcp-server-nqn=${nqnOf(id)}`;
  assertEquals(await simulator.run(`/disk add ${place} ${shown}`), "");
}

/** The volume context that it writes, all of it. */
function contextOf(id: string): Record<string, string> {
  return {
    volumePath: `/${BASE}/${id}.img`,
    nvmeAddress: "10.42.68.1",
    rdsAddress: "10.42.67.1",
    nvmePort: "4420",
    nqn: nqnOf(id),
    ctrlLossTmo: "-1",
    reconnectDelay: "5",
    keepAliveTmo: "0",
    migrationTimeoutSeconds: "300",
    "storage.kubernetes.io/csiProvisionerIdentity": "1700000000000-1234-rds.csi.srvlab.io",
  };
}

interface Old {
  accessMode?: string;
  volumeMode?: "Block" | "Filesystem";
  context?: Record<string, string>;
  annotations?: Record<string, string>;
}

/** A volume that it made, with its claim and StorageClass, bound. */
async function oldVolume(cluster: Cluster, claim: string, old: Old = {}): Promise<string> {
  const { accessMode = "ReadWriteOnce", volumeMode = "Filesystem", annotations = {} } = old;
  const id = newId();
  await addDisk(cluster, id);
  await makeClass(cluster, "rds-nvme", parameters);
  const fsType = volumeMode === "Filesystem" ? { fsType: "ext4" } : {};
  await cluster.kube.create(objects.persistentVolumes, {
    metadata: {
      name: id,
      annotations: { "pv.kubernetes.io/provisioned-by": DRIVER, ...annotations },
      finalizers: ["external-provisioner.volume.kubernetes.io/finalizer", "kubernetes.io/pv-protection"],
    },
    spec: {
      accessModes: [accessMode],
      capacity: { storage: "1Gi" },
      volumeMode,
      claimRef: { namespace: WORK, name: claim },
      storageClassName: "rds-nvme",
      persistentVolumeReclaimPolicy: "Delete",
      csi: { driver: DRIVER, volumeHandle: id, ...fsType, volumeAttributes: old.context ?? contextOf(id) },
    },
  });
  await makeClaim(cluster, claim, {
    accessModes: [accessMode],
    volumeMode,
    storageClassName: "rds-nvme",
    volumeName: id,
  });
  assertEquals((await bound(cluster, claim)).id, id);
  assertEquals(diskOf(cluster, id)?.[MOUNTS], true);
  return id;
}

/** An attachment that it has granted; no attacher may run meanwhile. */
async function oldAttachment(
  cluster: Cluster,
  name: string,
  { node, id }: { node: string; id: string },
): Promise<void> {
  await attach(cluster, name, { node, volume: id });
  const attachmentMetadata = { nvme_address: "10.42.68.1", nvme_port: "4420", nvme_nqn: nqnOf(id), fs_type: "ext4" };
  const status = { attached: true, attachmentMetadata };
  const metadata = { finalizers: ["external-attacher/rds-csi-srvlab-io"] };
  await cluster.kube.patch(objects.volumeAttachments, { name }, { metadata });
  await cluster.kube.patch(objects.volumeAttachments, { name }, { status }, "status");
}

scenario("a volume of the Go driver is attached, grown, detached and deleted", async (cluster) => {
  const annotations = { [NODE]: "node-c", [AT]: "2024-05-01T10:00:00.123456Z" };
  const id = await oldVolume(cluster, "old", { annotations });
  // RouterOS is kept from mounting it before anybody hears that it is attached.
  const text = "not enough permissions (9)";
  const fault = { action: "error", command: "disk set", argument: `${MOUNTS}=no`, text, times: 2 } as const;
  cluster.simulator.faults.add(fault);
  await attach(cluster, "old-a", { node: "node-a", volume: id });
  await refusedBecause(cluster, "old-a", text);
  const context = await attached(cluster, "old-a");
  assertEquals(diskOf(cluster, id)?.[MOUNTS], false);
  assertEquals(context, {
    nvme_address: "10.42.68.1",
    nvme_port: "4420",
    nvme_nqn: nqnOf(id),
    fs_type: "ext4",
    size_bytes: String(1024 ** 3),
    volume_id: id,
    pv_name: id,
  });
  const shown = (await cluster.kube.get(objects.persistentVolumes, { name: id })).metadata.annotations ?? {};
  assertEquals(shown[NODE], "node-a");
  assert(Date.parse(shown[AT] ?? "") > Date.now() - 300_000, shown[AT]);

  await cluster.kube.patch(objects.claims, { name: "old", namespace: WORK }, {
    spec: { resources: { requests: { storage: "3Gi" } } },
  });
  await cluster.kube.until(objects.persistentVolumes, { name: id }, ({ spec }) => spec.capacity.storage === "3Gi");
  assertEquals(diskOf(cluster, id)?.["size"], 3 * 1024 ** 3);
  assertEquals(diskOf(cluster, id)?.["nvme-tcp-server-nqn"], nqnOf(id));

  await detach(cluster, "old-a");
  await removeClaim(cluster, "old");
  assertNothingLeft(cluster);
});

scenario(
  "volumes that the Go driver attached stay attached, and RouterOS mounts them until nobody holds them",
  async (cluster) => {
    const once = await oldVolume(cluster, "once");
    const shared = await oldVolume(cluster, "shared", { accessMode: "ReadWriteMany", volumeMode: "Block" });
    await cluster.replica.crash();
    await oldAttachment(cluster, "once-a", { node: "node-a", id: once });
    await oldAttachment(cluster, "shared-a", { node: "node-a", id: shared });
    await cluster.replica.start();

    await attach(cluster, "once-b", { node: "node-b", volume: once });
    await refusedBecause(cluster, "once-b", "it is attached to node-a");
    await attach(cluster, "shared-b", { node: "node-b", volume: shared });
    assertEquals((await attached(cluster, "shared-b"))["nvme_nqn"], nqnOf(shared));
    for (const id of [once, shared]) assertEquals(diskOf(cluster, id)?.[MOUNTS], true, "changed under its holder");

    await detach(cluster, "once-a");
    await attached(cluster, "once-b");
    assertEquals(diskOf(cluster, once)?.[MOUNTS], false);
    for (const node of ["a", "b"]) await detach(cluster, `shared-${node}`);
    assertEquals(diskOf(cluster, shared)?.[MOUNTS], true);
    await attach(cluster, "shared-c", { node: "node-c", volume: shared });
    await attached(cluster, "shared-c");
    assertEquals(diskOf(cluster, shared)?.[MOUNTS], false);

    for (const name of ["once-b", "shared-c"]) await detach(cluster, name);
    for (const claim of ["once", "shared"]) await removeClaim(cluster, claim);
    assertNothingLeft(cluster);
  },
);

scenario("what an old volume's context does not say has its default", async (cluster) => {
  const { host } = cluster.simulator;
  const cases: [string, Record<string, string>, string][] = [
    ["nothing", {}, host],
    ["server", { rdsAddress: "10.42.67.1" }, "10.42.67.1"],
    ["address", { nvmeAddress: "10.42.68.1" }, "10.42.68.1"],
  ];
  for (const [claim, context, address] of cases) {
    const id = await oldVolume(cluster, claim, { context });
    await attach(cluster, `${claim}-a`, { node: "node-a", volume: id });
    const { nvme_address, nvme_port, nvme_nqn, fs_type } = await attached(cluster, `${claim}-a`);
    assertEquals([nvme_address, nvme_port, nvme_nqn, fs_type], [address, "4420", nqnOf(id), "ext4"], claim);
    await detach(cluster, `${claim}-a`);
    await removeClaim(cluster, claim);
  }
  assertNothingLeft(cluster);
});

scenario("a StorageClass of the Go driver makes volumes with all that it says", async (cluster) => {
  await makeClaim(cluster, "classed", { storageClassName: "rds-nvme" });
  const { id, name, csi } = await bound(cluster, "classed");
  const { sshPort: _, nqnPrefix: __, fsType: ___, volumePath: ____, ...kept } = parameters;
  const context = csi.volumeAttributes ?? {};
  for (const [key, value] of Object.entries(kept)) assertEquals(context[key], value, key);
  assertEquals([context["volumePath"], context["nqn"]], [`/${BASE}/${id}.img`, nqnOf(id)]);
  const disk = diskOf(cluster, id);
  assertEquals([disk?.["nvme-tcp-server-port"], disk?.["nvme-tcp-server-nqn"]], [4421, nqnOf(id)]);
  await attach(cluster, "classed-a", { node: "node-a", volume: name });
  const { nvme_address, nvme_port, fs_type } = await attached(cluster, "classed-a");
  assertEquals([nvme_address, nvme_port, fs_type], ["10.42.68.1", "4421", "xfs"]);
  await detach(cluster, "classed-a");
  await removeClaim(cluster, "classed");
  assertNothingLeft(cluster);
});

scenario("a volume that the Go driver had begun to make is taken over, not made twice", async (cluster) => {
  await cluster.replica.crash();
  const { metadata } = await makeClaim(cluster, "begun");
  const id = `pvc-${metadata.uid}`;
  await addDisk(cluster, id);
  await cluster.replica.start();
  const volume = await bound(cluster, "begun");
  assertEquals([volume.id, volume.name], [id, id]);
  assertEquals(volume.csi.volumeAttributes?.["nqn"], nqnOf(id));
  assertEquals(volume.csi.volumeAttributes?.["volumePath"], `/${BASE}/${id}.img`);
  assertEquals(disks(cluster).map(({ slot }) => slot), [id]);
  assertEquals(files(cluster), [`${BASE}/${id}.img`]);
  await attach(cluster, "begun-a", { node: "node-a", volume: id });
  await attached(cluster, "begun-a");
  assertEquals(diskOf(cluster, id)?.[MOUNTS], false);
  await detach(cluster, "begun-a");
  await removeClaim(cluster, "begun");
  assertNothingLeft(cluster);
});

scenario(
  "with --volume-ids=legacy the Go driver can handle what is made, and what was made before goes on",
  async (cluster) => {
    await makeClaim(cluster, "short");
    const short = await bound(cluster, "short");
    assertEquals(short.id.length, 32);
    await cluster.replica.crash();
    await cluster.replica.start({ "volume-ids": "legacy" });
    const { metadata } = await makeClaim(cluster, "way-back");
    const { id, name, csi } = await bound(cluster, "way-back");
    // Its own rules: id = slot = PV name, file and NQN made from it.
    assertEquals([id, name], [`pvc-${metadata.uid}`, `pvc-${metadata.uid}`]);
    assertMatch(id, /^[A-Za-z0-9-]{1,250}$/);
    const disk = diskOf(cluster, id);
    assertEquals(disk?.["nvme-tcp-server-nqn"], `nqn.2000-02.com.mikrotik:${id}`);
    assertEquals(csi.volumeAttributes?.["nqn"], `nqn.2000-02.com.mikrotik:${id}`);
    assertEquals(csi.volumeAttributes?.["volumePath"], `/${BASE}/${id}.img`);
    assertEquals(files(cluster), [short.id, id].map((each) => `${BASE}/${each}.img`).sort());
    for (const [claim, volume] of [["short", short.name], ["way-back", name]] as const) {
      await attach(cluster, `${claim}-a`, { node: "node-a", volume });
      await attached(cluster, `${claim}-a`);
      await detach(cluster, `${claim}-a`);
      await removeClaim(cluster, claim);
    }
    assertNothingLeft(cluster);
  },
);

scenario(
  "the command line of the Go driver's controller is taken, with a warning for each flag without effect",
  async (cluster) => {
    const ignored = {
      "enable-orphan-reconciler": true,
      "orphan-dry-run": "true",
      "attachment-grace-period": "30s",
      "attachment-reconcile-interval": "5m",
      "vmi-cache-ttl": "60s",
      "v": 4,
    } as const;
    await cluster.replica.restartController({
      "controller": true,
      "driver-name": DRIVER,
      "rds-user": "admin",
      "rds-insecure-skip-verify": "false",
      "rds-volume-base-path": `/${BASE}`,
      "orphan-check-interval": "1h",
      "orphan-grace-period": "5m",
      "enable-vmi-serialization": "true",
      ...ignored,
    });
    const { output } = cluster.replica.controller;
    for (const flag of Object.keys(ignored)) {
      assertEquals(output.split(`--${flag} has no effect`).length - 1, 1, `warnings of --${flag}`);
    }
    assertEquals(output.match(/has no effect/g)?.length, Object.keys(ignored).length);
    await makeClaim(cluster, "flagged");
    const { name } = await bound(cluster, "flagged");
    await attach(cluster, "flagged-a", { node: "node-a", volume: name });
    await attached(cluster, "flagged-a");
    await detach(cluster, "flagged-a");
    await removeClaim(cluster, "flagged");
    assertNothingLeft(cluster);
  },
);
