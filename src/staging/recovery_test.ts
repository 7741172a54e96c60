import { assert, assertEquals, assertNotEquals, assertRejects } from "@std/assert";
import { TestCluster } from "../../tests/nvme/cluster.ts";
import type { TestNode } from "../../tests/nvme/node.ts";
import { onNode } from "../../tests/nvme/on_node.ts";
import { run } from "../../tests/nvme/stand_in.ts";
import { deviceNodeAt } from "../mounts/device_node.ts";
import { AlreadyExists, FailedPrecondition, InUse, Unreachable } from "../runtime/errors.ts";
import { look, problemsOf } from "./condition.ts";
import { publish, type PublishInput, unpublish } from "./publish.ts";
import { mend, recover } from "./recovery.ts";
import { stage } from "./stage.ts";
import type { VolumeInput } from "./volume.ts";

/** As the kernel does when `ctrl_loss_tmo` is over: the session goes, and what is mounted stays. */
async function giveUp(node: TestNode, volume: VolumeInput): Promise<void> {
  await node.nvme("disconnect", "-n", node.nqn(volume));
}

async function kinds(node: TestNode, volume: VolumeInput): Promise<string[]> {
  const sight = (await look(node.parts)).sights.get(volume.volumeId);
  return sight ? problemsOf(sight).map(({ kind }) => kind) : [];
}

/** What the device of today has as number. */
async function number(node: TestNode, volume: VolumeInput): Promise<string> {
  return (await node.parts.sessions.device(node.nqn(volume))).majorMinor;
}

async function stagedNumber(node: TestNode, volume: VolumeInput): Promise<string | undefined> {
  return (await node.parts.mounts.at(volume.stagingPath))?.majorMinor;
}

function withCluster(node: TestNode): TestCluster {
  const cluster = new TestCluster();
  node.parts = { ...node.parts, cluster };
  return cluster;
}

for (const type of ["ext4", "xfs"] as const) {
  onNode(
    `mend() connects a session again that the kernel gave up, and mounts ${type} at the staging path as before`,
    async (node) => {
      const cluster = withCluster(node);
      const plain = await node.volume(type);
      const capability = { kind: "filesystem" as const, fsType: type, mountOptions: ["noatime"] };
      const volume = { ...plain, capability };
      cluster.attach(volume, node.nqn(volume));
      await stage(node.parts, volume);
      await Deno.writeTextFile(`${volume.stagingPath}/file`, "precious");
      await run("sync", "-f", volume.stagingPath);
      const before = await stagedNumber(node, volume);
      assertEquals([await mend(node.parts, volume.volumeId), await kinds(node, volume)], [undefined, []]);
      await giveUp(node, volume);
      assertEquals(await kinds(node, volume), ["session_gone", "stale_mount"]);
      assert(await mend(node.parts, volume.volumeId));
      assertNotEquals(await stagedNumber(node, volume), before);
      assertEquals([await stagedNumber(node, volume), await node.mountsAt(volume.stagingPath)], [
        await number(node, volume),
        1,
      ]);
      assert((await node.parts.mounts.at(volume.stagingPath))?.options.includes("noatime"));
      assertEquals(await Deno.readTextFile(`${volume.stagingPath}/file`), "precious");
      assertEquals([await mend(node.parts, volume.volumeId), await kinds(node, volume)], [undefined, []]);
      assertEquals((await node.parts.records.read(volume.volumeId))?.remounting, undefined);
      assertEquals(node.commands.started.filter((line) => line.startsWith("mkfs.")).length, 1);
    },
  );
}

onNode(
  "mend() connects nothing that is not attached here under that NQN, is being unstaged, or of which nothing is known",
  async (node) => {
    const cluster = withCluster(node);
    const volume = await node.volume("ext4");
    const { volumeId } = volume;
    await stage(node.parts, volume);
    await giveUp(node, volume);
    const nqn = node.nqn(volume);
    const refused: (() => void)[] = [
      () => {},
      () => cluster.attach(volume, `${nqn}.g1`),
      () => cluster.attach(volume, undefined),
      () => cluster.attachments.push({ volumeId, nqn, attached: false, deleting: false }),
      () => cluster.attachments.push({ volumeId, nqn, attached: true, deleting: true }),
      () => cluster.attach({ volumeId: "pvc-another" }, nqn),
    ];
    for (const prepare of refused) {
      cluster.attachments = [];
      prepare();
      assertEquals([await mend(node.parts, volumeId), await node.sessions(volume)], [undefined, 0]);
    }
    cluster.attachments = [];
    cluster.attach(volume, nqn);
    cluster.failure = new Unreachable("away");
    await assertRejects(() => mend(node.parts, volumeId), Unreachable, "away");
    cluster.failure = undefined;
    const record = await node.parts.records.read(volumeId);
    assert(record);
    await node.parts.records.write({ ...record, unstaging: true });
    assertEquals([await mend(node.parts, volumeId), await node.sessions(volume)], [undefined, 0]);
    await node.parts.records.write(record);
    assert(await mend(node.parts, volumeId));
  },
);

onNode(
  "mend() does nothing under a running pod: the staging path is mounted anew when the pod is gone",
  async (node) => {
    const volume = await node.volume("ext4");
    const input = await node.up(volume, "pod");
    const before = await stagedNumber(node, volume);
    await giveUp(node, volume);
    await assertRejects(() => mend(node.parts, volume.volumeId), InUse, input.targetPath);
    assertEquals(await node.sessions(volume), 1, "the session is there again for the pod's successor");
    assertEquals(await kinds(node, volume), ["stale_mount"]);
    for (const path of [volume.stagingPath, input.targetPath]) {
      assertEquals((await node.parts.mounts.at(path))?.majorMinor, before);
    }
    await assertRejects(() => stage(node.parts, volume), InUse, input.targetPath);
    await unpublish(node.parts, input);
    assert(await mend(node.parts, volume.volumeId));
    await publish(node.parts, input);
    assertEquals((await node.parts.mounts.at(input.targetPath))?.majorMinor, await number(node, volume));
  },
);

onNode(
  "mend() mounts no device that came back smaller or with something else on it, writes nothing, and leaves the rest",
  async (node) => {
    const size = 320 * 2 ** 20;
    const fillers: [found: string, size: number, fill: (file: string) => Promise<unknown>][] = [
      [`had ${size}`, size / 2, () => Promise.resolve()],
      ["nothing on it", size, () => Promise.resolve()],
      ["came back with xfs", size, (file) => run("mkfs.xfs", "-q", file)],
    ];
    for (const [found, sizeNow, fill] of fillers) {
      const volume = await node.volume("ext4", size);
      await stage(node.parts, volume);
      const before = await stagedNumber(node, volume);
      await giveUp(node, volume);
      const file = node.server.file(node.nqn(volume));
      await Deno.remove(file);
      await node.server.offer(node.nqn(volume), sizeNow);
      await fill(file);
      const content = await run("sha256sum", file);
      const error = await assertRejects(() => mend(node.parts, volume.volumeId), Error, found);
      assert(error instanceof FailedPrecondition || error instanceof Unreachable);
      assertEquals([await stagedNumber(node, volume), await run("sha256sum", file)], [before, content]);
    }
    assertEquals(node.commands.started.filter((line) => line.startsWith("mkfs.")).length, fillers.length);
  },
);

onNode("mend() that ends between unmounting and mounting is finished by the next one, or by stage()", async (node) => {
  const finishers: ((volume: VolumeInput) => Promise<unknown>)[] = [
    ({ volumeId }) => mend(node.parts, volumeId),
    (volume) => stage(node.parts, volume),
  ];
  for (const finish of finishers) {
    const volume = await node.volume("ext4");
    await stage(node.parts, volume);
    await giveUp(node, volume);
    node.commands.instead = (program) => program === "mount" ? { code: 32, stdout: "", stderr: "killed" } : undefined;
    await assertRejects(() => mend(node.parts, volume.volumeId), FailedPrecondition, "killed");
    node.commands.instead = () => undefined;
    assertEquals([await node.mountsAt(volume.stagingPath), await kinds(node, volume)], [0, ["not_mounted"]]);
    node.restart();
    await finish(volume);
    assertEquals([await stagedNumber(node, volume), await kinds(node, volume)], [await number(node, volume), []]);
  }
});

onNode(
  "mend() that ends during the trial of an xfs leaves nothing that looks like the volume mounted read-only",
  async (node) => {
    const volume = await node.volume("xfs");
    await stage(node.parts, volume);
    await giveUp(node, volume);
    let unmounted = 0;
    node.commands.instead = (program) =>
      program === "umount" && ++unmounted > 1 ? { code: 1, stdout: "", stderr: "killed" } : undefined;
    await assertRejects(() => mend(node.parts, volume.volumeId), FailedPrecondition, "killed");
    node.commands.instead = () => undefined;
    assert((await node.parts.mounts.at(volume.stagingPath))?.superOptions.includes("norecovery"));
    await mend(node.parts, volume.volumeId);
    assertEquals((await node.parts.mounts.at(volume.stagingPath))?.options.includes("rw"), true);
    assertEquals([await kinds(node, volume), await node.mountsAt(volume.stagingPath)], [[], 1]);
  },
);

onNode("mend() leaves a staging path alone where something else is mounted", async (node) => {
  const volume = await node.volume("ext4");
  await stage(node.parts, volume);
  await run("umount", volume.stagingPath);
  await giveUp(node, volume);
  await run("mount", "-t", "tmpfs", "other", volume.stagingPath);
  await assertRejects(() => mend(node.parts, volume.volumeId), FailedPrecondition, "left alone");
  assertEquals((await node.parts.mounts.at(volume.stagingPath))?.fsType, "tmpfs");
});

onNode("stage() mounts the staging path anew when its device is gone and no pod has it", async (node) => {
  const cluster = withCluster(node);
  const volume = await node.volume("ext4");
  await stage(node.parts, volume);
  await giveUp(node, volume);
  await stage(node.parts, volume);
  assertEquals([await stagedNumber(node, volume), await kinds(node, volume)], [await number(node, volume), []]);
  assertEquals(cluster.told.map(({ reason }) => reason), ["VolumeRecovered"]);
});

onNode(
  "recover() mounts a filesystem anew that the kernel has stopped, unless another pod has it, and tries again what fails there",
  async (node) => {
    const cluster = withCluster(node);
    const volume = await node.volume("ext4");
    const first = await node.up(volume, "first");
    const options = async () => (await node.parts.mounts.at(volume.stagingPath))?.superOptions ?? [];
    await run("mount", "-o", "remount,abort", volume.stagingPath); // As after an I/O error.
    await Deno.writeTextFile(`${volume.stagingPath}/file`, "x").catch(() => {});
    const device = await node.parts.sessions.device(node.nqn(volume));
    await recover(node.parts, volume, device);
    assertEquals([await kinds(node, volume), await node.mountsAt(volume.stagingPath)], [["filesystem_stopped"], 1]);
    await unpublish(node.parts, first);
    node.commands.instead = (program) => program === "blkid" ? { code: 8, stdout: "", stderr: "late" } : undefined;
    await assertRejects(() => publish(node.parts, first), Unreachable, "late");
    assertEquals([await kinds(node, volume), await node.mountsAt(first.targetPath)], [["not_mounted"], 0]);
    node.commands.instead = () => undefined;
    await publish(node.parts, first);
    assertEquals([(await options()).includes("rw"), await kinds(node, volume)], [true, []]);
    await Deno.writeTextFile(`${first.targetPath}/file`, "written");
    assertEquals(cluster.told.map(({ reason }) => reason), ["VolumeRecovered"]);
  },
);

/** As if the volume's device had had this number when it was published: the kernel gives numbers anew. */
async function hadNumber(node: TestNode, { volumeId, targetPath }: PublishInput, old: string): Promise<void> {
  const record = await node.parts.records.read(volumeId);
  assert(record);
  await node.parts.records.write({ ...record, majorMinor: old });
  await Deno.remove(targetPath);
  await run("mknod", targetPath, "b", ...old.split(":"));
}

/** A block volume that the kernel gave up, and whose number another volume has now. */
async function renumbered(node: TestNode) {
  const [block, other] = [await node.volume("block"), await node.volume("block")];
  const input = await node.up(block, "disk");
  await giveUp(node, block);
  await node.nvme("connect", "-t", "tcp", "-a", "127.0.0.1", "-s", String(node.server.port), "-n", node.nqn(other));
  const old = await number(node, other);
  await hadNumber(node, input, old);
  return { block, other, input, old };
}

onNode(
  "mend() notes the new number of a block volume, and recover() replaces its old node only when no device has that number",
  async (node) => {
    const { block, other, input, old } = await renumbered(node);
    assert(await mend(node.parts, block.volumeId));
    const record = await node.parts.records.read(block.volumeId);
    assertEquals([record?.majorMinor, record?.formerNumbers], [await number(node, block), [old]]);
    assertEquals([await deviceNodeAt(input.targetPath), await kinds(node, block)], [old, ["stale_node"]]);
    const device = await node.parts.sessions.device(node.nqn(block));
    await recover(node.parts, input, device);
    assertEquals(await deviceNodeAt(input.targetPath), old, "it is the other volume's by now");
    await assertRejects(() => publish(node.parts, input), AlreadyExists, "another device");
    await giveUp(node, other);
    await recover(node.parts, { volumeId: block.volumeId }, device);
    assertEquals(await deviceNodeAt(input.targetPath), old, "no path was named");
    await recover(node.parts, input, device);
    await publish(node.parts, input);
    assertEquals([await deviceNodeAt(input.targetPath), await kinds(node, block)], [device.majorMinor, []]);
    await recover(node.parts, input, device);
    const renewed = await node.parts.records.read(block.volumeId);
    assertEquals(renewed?.formerNumbers, undefined);
  },
);

onNode(
  "stage() keeps no volume connected whose device has the number of another one's published node",
  async (node) => {
    const [block, other] = [await node.volume("block"), await node.volume("block")];
    const input = await node.up(block, "disk");
    await giveUp(node, block);
    node.commands.instead = async (program, args) => {
      if (program !== "nvme") return undefined as never;
      node.commands.instead = () => undefined;
      const output = await node.commands.run(program, args, { deadline: 60_000 });
      await hadNumber(node, input, await number(node, other));
      return output;
    };
    await assertRejects(() => stage(node.parts, other), FailedPrecondition, input.targetPath);
    assertEquals(await node.sessions(other), 0);
    await unpublish(node.parts, input);
    await stage(node.parts, other);
    assertEquals(await node.sessions(other), 1);
  },
);
