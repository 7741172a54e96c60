import { assert, assertEquals, assertInstanceOf, assertRejects } from "@std/assert";
import type { TestCluster } from "../../tests/nvme/cluster.ts";
import type { TestNode } from "../../tests/nvme/node.ts";
import { onNode } from "../../tests/nvme/on_node.ts";
import { run } from "../../tests/nvme/stand_in.ts";
import { Cancelled, FailedPrecondition, InUse, Unreachable } from "../runtime/errors.ts";
import { letGoAnnotation } from "./dead_sessions.ts";
import { letGo } from "./let_go.ts";
import { publish, unpublish } from "./publish.ts";
import { stage } from "./stage.ts";
import { unstage } from "./unstage.ts";
import type { VolumeInput } from "./volume.ts";

const pod = "8a2f3c1e-5b6d-4e7f-8a9b-0c1d2e3f4a5b";

/** A node of a cluster with a volume that is attached and staged, and whose session is then dead. */
async function withDead(node: TestNode, kind: "ext4" | "block", publishedAt?: string) {
  const cluster = await node.inKubernetes();
  const volume = await node.volume(kind);
  cluster.attach(volume, node.nqn(volume));
  await stage(node.parts, volume);
  if (publishedAt) await publish(node.parts, { ...volume, targetPath: publishedAt, exclusive: false });
  await node.setState(volume, "connecting");
  return { cluster, volume };
}

async function left(node: TestNode, volume: VolumeInput) {
  return {
    sessions: await node.sessions(volume),
    mounts: await node.mountsAt(volume.stagingPath),
    records: await node.parts.records.volumeIds(),
  };
}

const nothing = { sessions: 0, mounts: 0, records: [] };

/** The order in which programs were started. */
function orderOf(node: TestNode, ...programs: string[]): string[] {
  return node.commands.started.map((line) => programs.find((each) => line.startsWith(each)) ?? "").filter(Boolean);
}

onNode(
  "unstage() of a dead session that may be needed is Unavailable, changes nothing and names the three ways",
  async (node) => {
    const { cluster, volume } = await withDead(node, "ext4");
    const cases: (() => void)[] = [
      () => {},
      () => cluster.annotate(volume, letGoAnnotation, "node-2"),
      () => cluster.attach(volume, undefined),
      () => cluster.failure = new Unreachable("no API"),
    ];
    for (const prepare of cases) {
      prepare();
      const error = await unstage(node.parts, volume).catch((error) => error);
      assertInstanceOf(error, Unreachable);
      for (const way of ["kubectl get volumeattachments", "newer generation", `kubectl annotate pv`, "let-go=node-1"]) {
        assert(error.message.includes(way), error.message);
      }
      assertEquals(await left(node, volume), { sessions: 1, mounts: 1, records: [volume.volumeId] });
    }
    await assertRejects(() => unstage(node.parts, volume), Unreachable, "gave no answer (no API)");
  },
);

const ways: Record<string, (cluster: TestCluster, volume: VolumeInput, nqn: string) => void> = {
  "its attachment is gone": (cluster, volume) => cluster.detach(volume),
  "its attachment names a newer generation": (cluster, volume, nqn) => cluster.attach(volume, `${nqn}.g1`),
  "an administrator says so": (cluster, volume) => cluster.annotate(volume, letGoAnnotation, "node-1"),
};
for (const [way, prepare] of Object.entries(ways)) {
  onNode(`unstage() lets a dead session go when ${way}: disconnect first, then unmount`, async (node) => {
    const { cluster, volume } = await withDead(node, "ext4");
    prepare(cluster, volume, node.nqn(volume));
    node.commands.started.length = 0;
    await unstage(node.parts, volume);
    assertEquals(await left(node, volume), nothing);
    assertEquals(orderOf(node, "nvme disconnect", "umount"), ["nvme disconnect", "umount"]);
    assertEquals(cluster.told.map(({ reason }) => reason), ["SessionLetGo"]);
    assert(cluster.told[0]?.message.includes(node.nqn(volume)));
    await unstage(node.parts, volume);
  });
}

for (const [way, prepare] of Object.entries(ways)) {
  onNode(`unpublish() of the last mount of a dead session lets it go when ${way}`, async (node) => {
    const target = await node.podPath(pod);
    const { cluster, volume } = await withDead(node, "ext4", target);
    cluster.pods.add(pod); // It is there until its volumes are not.
    await run("umount", volume.stagingPath);
    const input = { volumeId: volume.volumeId, targetPath: target };
    await assertRejects(() => unpublish(node.parts, input), Unreachable, "is not live");
    prepare(cluster, volume, node.nqn(volume));
    node.commands.started.length = 0;
    await unpublish(node.parts, input);
    assertEquals([await left(node, volume), await node.mountsAt(target)], [nothing, 0]);
    assertEquals(orderOf(node, "nvme disconnect", "umount"), ["nvme disconnect", "umount"]);
    await assertRejects(() => Deno.lstat(target), Deno.errors.NotFound);
    await unpublish(node.parts, input);
    await unstage(node.parts, volume);
    assertEquals(await left(node, volume), nothing);
  });
}

onNode(
  "letGo() finds the staging path by itself, takes the mounts of gone pods away, and needs no second call",
  async (node) => {
    const target = await node.podPath(pod);
    const { cluster, volume } = await withDead(node, "ext4", target);
    cluster.detach(volume);
    node.commands.started.length = 0;
    await letGo(node.parts, volume.volumeId);
    assertEquals([await left(node, volume), await node.mountsAt(target)], [nothing, 0]);
    assertEquals(orderOf(node, "nvme disconnect", "umount"), ["nvme disconnect", "umount", "umount"]);
    await letGo(node.parts, volume.volumeId);
    assertEquals(cluster.told.length, 1);
  },
);

onNode(
  "letGo() refuses while pods that exist have the volume, unless an administrator says so: then their mounts stay",
  async (node) => {
    const target = await node.podPath(pod);
    const { cluster, volume } = await withDead(node, "ext4", target);
    cluster.pods.add(pod);
    cluster.detach(volume);
    await assertRejects(() => letGo(node.parts, volume.volumeId), InUse, "pods that have it must go first");
    await assertRejects(() => unstage(node.parts, volume), InUse, target);
    assertEquals(await left(node, volume), { sessions: 1, mounts: 1, records: [volume.volumeId] });
    cluster.attach(volume, node.nqn(volume));
    cluster.annotate(volume, letGoAnnotation, "node-1");
    await assertRejects(() => unstage(node.parts, volume), InUse, target);
    assertEquals(await left(node, volume), { sessions: 0, mounts: 0, records: [volume.volumeId] });
    assertEquals(await node.mountsAt(target), 1);
    await unpublish(node.parts, { ...volume, targetPath: target });
    await unstage(node.parts, volume);
    assertEquals([await left(node, volume), await node.mountsAt(target)], [nothing, 0]);
  },
);

onNode("letGo() takes nobody's mounts for a gone pod's when it is not known which pods there are", async (node) => {
  const target = await node.podPath(pod);
  const { cluster, volume } = await withDead(node, "ext4", target);
  cluster.detach(volume);
  cluster.podsHere = () => Promise.reject(new Unreachable("no API"));
  await assertRejects(() => letGo(node.parts, volume.volumeId), InUse, target);
  assertEquals([await node.sessions(volume), await node.mountsAt(target)], [1, 1]);
});

onNode(
  "letGo() refuses while another device is built on the dead one, also when an administrator says so",
  async (node) => {
    const { cluster, volume } = await withDead(node, "block");
    cluster.annotate(volume, letGoAnnotation, "node-1");
    const { sysfs } = node.standIn.roots;
    await Deno.mkdir(`${sysfs}/class/block/nvme0n1/holders/dm-0`);
    await assertRejects(() => letGo(node.parts, volume.volumeId), InUse, "dm-0, built on nvme0n1");
    await Deno.remove(`${sysfs}/class/block/nvme0n1/holders/dm-0`);
    await Deno.mkdir(`${sysfs}/block/loop7/loop`, { recursive: true });
    await Deno.writeTextFile(`${sysfs}/block/loop7/loop/backing_file`, "/dev/nvme0n1\n");
    await assertRejects(() => letGo(node.parts, volume.volumeId), InUse, "loop7, built on /dev/nvme0n1");
    assertEquals(await node.sessions(volume), 1);
  },
);

onNode("letGo() removes the device node of a gone pod, and no other", async (node) => {
  const target = await node.podPath(pod, "disk");
  const { cluster, volume } = await withDead(node, "block", target);
  cluster.pods.add(pod);
  cluster.detach(volume);
  await assertRejects(() => letGo(node.parts, volume.volumeId), InUse, `device node at ${target}`);
  cluster.pods.clear();
  await letGo(node.parts, volume.volumeId);
  assertEquals(await left(node, volume), nothing);
  await assertRejects(() => Deno.lstat(target), Deno.errors.NotFound);
});

onNode(
  "unstage() of a dead old generation beside a live new one ends both; letGo() the dead one alone",
  async (node) => {
    const { cluster, volume } = await withDead(node, "ext4");
    const nqn = node.nqn(volume);
    await node.server.offer(`${nqn}.g1`, 2 ** 27);
    await node.nvme("connect", "-t", "tcp", "-a", "127.0.0.1", "-s", String(node.server.port), "-n", `${nqn}.g1`);
    await assertRejects(() => unstage(node.parts, volume), Unreachable, nqn);
    assertEquals(await node.sessions(volume), 2);
    cluster.attach(volume, `${nqn}.g1`);
    await letGo(node.parts, volume.volumeId);
    assertEquals((await node.parts.sessions.ofVolume(volume.volumeId)).map((each) => each.nqn), [`${nqn}.g1`]);
    assertEquals(await node.mountsAt(volume.stagingPath), 0);
    await unstage(node.parts, volume);
    assertEquals(await left(node, volume), nothing);
  },
);

onNode("letGo() of an old generation leaves the new one mounted and published", async (node) => {
  const { cluster, volume } = await withDead(node, "ext4");
  await run("umount", volume.stagingPath);
  const nqn = `${node.nqn(volume)}.g1`;
  await node.server.offer(nqn, 2 ** 27);
  await node.nvme("connect", "-t", "tcp", "-a", "127.0.0.1", "-s", String(node.server.port), "-n", nqn);
  const { path } = await node.parts.sessions.device(nqn);
  await run("mkfs.ext4", "-q", path);
  const target = await node.podPath(pod);
  await Deno.mkdir(target);
  await run("mount", path, volume.stagingPath);
  await run("mount", "--bind", volume.stagingPath, target);
  cluster.attach(volume, nqn);
  await letGo(node.parts, volume.volumeId);
  assertEquals((await node.parts.sessions.ofVolume(volume.volumeId)).map((each) => each.nqn), [nqn]);
  assertEquals([await node.mountsAt(volume.stagingPath), await node.mountsAt(target)], [1, 1]);
  const record = await node.parts.records.read(volume.volumeId);
  assertEquals([record?.volumeId, record?.unstaging], [volume.volumeId, undefined]);
});

onNode(
  "letGo() ends nothing for a caller that went away, and is finished by the next after a crash at any step",
  async (node) => {
    const { cluster, volume } = await withDead(node, "ext4");
    cluster.detach(volume);
    await assertRejects(() => letGo(node.parts, volume.volumeId, { signal: AbortSignal.abort() }), Cancelled);
    assertEquals(await node.sessions(volume), 1);
    for (const killed of ["nvme", "umount"]) {
      node.commands.instead = (program) => program === killed ? Promise.reject(new Error("killed")) : undefined;
      await assertRejects(() => unstage(node.parts, volume), Error, "killed");
      assertEquals((await node.parts.records.read(volume.volumeId))?.unstaging, true);
      node.restart();
    }
    node.commands.instead = () => undefined;
    await unstage(node.parts, volume);
    assertEquals(await left(node, volume), nothing);
  },
);

onNode(
  "letGo() leaves a live session and foreign mounts alone, and a lost record is no reason to stay",
  async (node) => {
    const { cluster, volume } = await withDead(node, "ext4");
    cluster.detach(volume);
    await node.setState(volume, "live");
    await letGo(node.parts, volume.volumeId);
    assertEquals(await left(node, volume), { sessions: 1, mounts: 1, records: [volume.volumeId] });
    await node.setState(volume, "connecting");
    await node.parts.records.remove(volume.volumeId);
    await assertRejects(() => letGo(node.parts, volume.volumeId), InUse, volume.stagingPath);
    await run("mount", "-t", "tmpfs", "other", volume.stagingPath);
    await assertRejects(() => unstage(node.parts, volume), FailedPrecondition, "left alone");
    assertEquals(await node.sessions(volume), 1);
    await run("umount", volume.stagingPath);
    node.commands.instead = (program) => program === "umount" ? Promise.reject(new Error("killed")) : undefined;
    await assertRejects(() => unstage(node.parts, volume), Error, "killed");
    node.commands.instead = () => undefined;
    node.restart();
    await unstage(node.parts, volume);
    assertEquals(await left(node, volume), nothing);
  },
);
