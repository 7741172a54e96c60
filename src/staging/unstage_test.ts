import { assertEquals, assertRejects } from "@std/assert";
import { GiB } from "../../tests/nvme/node.ts";
import { onNode } from "../../tests/nvme/on_node.ts";
import { run } from "../../tests/nvme/stand_in.ts";
import { FailedPrecondition, InUse, InvalidArgument, Unreachable } from "../runtime/errors.ts";
import { unpublish } from "./publish.ts";
import { stage } from "./stage.ts";
import { unstage } from "./unstage.ts";

onNode("unstage() is fine with whatever is gone already", async (node) => {
  const volume = await node.volume("ext4");
  await unstage(node.parts, volume);
  await stage(node.parts, volume);
  await run("umount", volume.stagingPath);
  await unstage(node.parts, volume);
  await unstage(node.parts, volume);
  assertEquals([await node.sessions(volume), await node.parts.records.volumeIds()], [0, []]);
  await assertRejects(() => unstage(node.parts, { ...volume, volumeId: "nixos-var" }), InvalidArgument);
});

onNode("unstage() refuses while the volume is mounted elsewhere, and changes nothing", async (node) => {
  const volume = await node.volume("xfs");
  const input = await node.up(volume, "target");
  await assertRejects(() => unstage(node.parts, volume), InUse, input.targetPath);
  assertEquals([await node.mountsAt(volume.stagingPath), await node.sessions(volume)], [1, 1]);
  await unpublish(node.parts, input);
  await unstage(node.parts, volume);
  assertEquals(await node.sessions(volume), 0);
});

onNode("unstage() refuses while a device node of the volume is published, also after a restart", async (node) => {
  const volume = await node.volume("block");
  const input = await node.up(volume, "disk");
  node.restart();
  await assertRejects(() => unstage(node.parts, volume), InUse, `device node at ${input.targetPath}`);
  await unpublish(node.parts, input);
  await unstage(node.parts, volume);
  assertEquals(await node.sessions(volume), 0);
});

onNode("unstage() refuses while another device is built on the volume's", async (node) => {
  const volume = await node.volume("block");
  await stage(node.parts, volume);
  await Deno.mkdir(`${node.standIn.roots.sysfs}/class/block/nvme0n1/holders/dm-0`);
  await assertRejects(() => unstage(node.parts, volume), InUse, "dm-0, built on nvme0n1");
  assertEquals(await node.sessions(volume), 1);
});

onNode("unstage() says who keeps the staging path busy and stays connected", async (node) => {
  const volume = await node.volume("ext4");
  await stage(node.parts, volume);
  {
    using _open = await Deno.open(`${volume.stagingPath}/file`, { write: true, create: true });
    await assertRejects(() => unstage(node.parts, volume), InUse, "fuser");
    assertEquals([await node.mountsAt(volume.stagingPath), await node.sessions(volume)], [1, 1]);
  }
  await unstage(node.parts, volume);
});

onNode("unstage() leaves a foreign mount at the staging path and foreign sessions alone", async (node) => {
  const volume = await node.volume("block");
  const foreign = "nqn.2000-02.com.mikrotik:nixos-var";
  await node.server.offer(foreign, GiB);
  await node.nvme("connect", "-t", "tcp", "-a", "127.0.0.1", "-s", String(node.server.port), "-n", foreign);
  const other = await node.volume("ext4");
  await node.up(other, "target");
  await stage(node.parts, volume);
  await run("mount", "-t", "tmpfs", "other", volume.stagingPath);
  await assertRejects(() => unstage(node.parts, volume), FailedPrecondition, "left alone");
  await run("umount", volume.stagingPath);
  await unstage(node.parts, volume);
  assertEquals([await node.sessions(volume), await node.sessions(other)], [0, 1]);
  assertEquals((await node.parts.sysfs.session(foreign))?.live, true);
});

onNode("unstage() does not unmount a filesystem whose session is not live", async (node) => {
  const volume = await node.volume("ext4");
  await stage(node.parts, volume);
  await node.setState(volume, "connecting");
  await assertRejects(() => unstage(node.parts, volume), Unreachable, "would hang");
  assertEquals(await node.mountsAt(volume.stagingPath), 1);
  await node.setState(volume, "live");
  await unstage(node.parts, volume);
});

onNode("unstage() unmounts what is left of a session that the kernel gave up, known by its record", async (node) => {
  const volume = await node.volume("ext4");
  await stage(node.parts, volume);
  await node.nvme("disconnect", "-n", node.nqn(volume));
  node.restart();
  await unstage(node.parts, volume);
  assertEquals([await node.mountsAt(volume.stagingPath), await node.parts.records.volumeIds()], [0, []]);
});

onNode("unstage() refuses while a partition of the volume is mounted or built upon", async (node) => {
  const volume = await node.volume("block");
  await stage(node.parts, volume);
  await Deno.mkdir(node.path("mounted"));
  await run("mount", "-t", "tmpfs", "partition", node.path("mounted"));
  const number = (await node.parts.mounts.at(node.path("mounted")))?.majorMinor;
  const folder = `${node.standIn.roots.sysfs}/class/block/nvme0n1/nvme0n1p1`;
  await Deno.mkdir(`${folder}/holders/md0`, { recursive: true });
  await Deno.writeTextFile(`${folder}/dev`, `${number}\n`);
  await assertRejects(() => unstage(node.parts, volume), InUse, "md0, built on nvme0n1p1");
  await assertRejects(() => unstage(node.parts, volume), InUse, node.path("mounted"));
  assertEquals(await node.sessions(volume), 1);
});

onNode("unstage() refuses a staging path that is not the one in use", async (node) => {
  const volume = await node.volume("block");
  const second = { ...volume, stagingPath: node.path("second") };
  await Deno.mkdir(second.stagingPath);
  for (const each of [volume, second]) await stage(node.parts, each);
  await assertRejects(() => unstage(node.parts, volume), InUse, `staged at ${second.stagingPath}`);
  assertEquals(await node.sessions(volume), 1);
  await unstage(node.parts, second);
  await unstage(node.parts, volume);
  assertEquals(await node.sessions(volume), 0);
});

onNode("unstage() goes on when there is no room for the note that it has begun", async (node) => {
  const volume = await node.volume("ext4");
  await stage(node.parts, volume);
  node.parts.records.write = () => Promise.reject(new Error("No space left on device"));
  await unstage(node.parts, volume);
  assertEquals(await node.sessions(volume), 0);
  assertEquals(await node.parts.records.read(volume.volumeId), undefined);
});
