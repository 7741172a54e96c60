import { assert, assertEquals, assertRejects } from "@std/assert";
import { canGrowExt4, GiB } from "../../tests/nvme/node.ts";
import { onNode } from "../../tests/nvme/on_node.ts";
import { run } from "../../tests/nvme/stand_in.ts";
import { FailedPrecondition, NotFound, Unreachable } from "../runtime/errors.ts";
import { expand } from "./expand.ts";
import { publish } from "./publish.ts";
import { stage } from "./stage.ts";
import { stats } from "./stats.ts";

onNode("stats() gives bytes and inodes of a filesystem, at the staging path and at a target", async (node) => {
  const volume = await node.volume("ext4");
  const input = await node.up(volume, "target");
  await run("dd", "if=/dev/zero", `of=${input.targetPath}/file`, "bs=1M", "count=10", "conv=fsync");
  for (const volumePath of [volume.stagingPath, input.targetPath]) {
    const { usage: [bytes, inodes], condition } = await stats(node.parts, { ...volume, volumePath });
    assert(bytes && inodes);
    assertEquals([bytes.unit, inodes.unit, condition.abnormal], ["bytes", "inodes", false]);
    assert((bytes.used ?? 0) >= 10 * 2 ** 20 && bytes.total > 0.9 * GiB);
    // Nothing is kept back for root; the kernel keeps 2 % for itself.
    assert((bytes.used ?? 0) + (bytes.available ?? 0) > 0.97 * bytes.total);
    assertEquals(inodes.total, (inodes.used ?? 0) + (inodes.available ?? 0));
  }
});

onNode("stats() gives the size of a block volume", async (node) => {
  const volume = await node.volume("block");
  const { targetPath: volumePath } = await node.up(volume, "disk");
  const { usage, condition } = await stats(node.parts, { ...volume, volumePath });
  assertEquals([usage, condition.abnormal], [[{ unit: "bytes", total: GiB }], false]);
});

onNode("stats() knows no volume that is not here, and no path that is not its own", async (node) => {
  const volume = await node.volume("ext4");
  await assertRejects(() => stats(node.parts, { ...volume, volumePath: volume.stagingPath }), NotFound);
  await stage(node.parts, volume);
  for (const volumePath of ["some/path", node.path("absent"), node.path("absent/absent")]) {
    await assertRejects(() => stats(node.parts, { ...volume, volumePath }), NotFound);
  }
  await assertRejects(() => stats(node.parts, { volumeId: "x/y", volumePath: volume.stagingPath }), NotFound);
});

onNode("stats() touches no filesystem whose session is not live, and says so", async (node) => {
  const volume = await node.volume("ext4");
  await stage(node.parts, volume);
  const block = await node.volume("block");
  const { targetPath } = await node.up(block, "disk");
  const asked = { ...volume, volumePath: volume.stagingPath };
  await node.setState(volume, "connecting");
  const unknown = await stats(node.parts, asked);
  assertEquals([unknown.usage, unknown.condition.abnormal], [[{ unit: "bytes", total: GiB }], true]);
  await node.setState(volume, "live");
  const { usage } = await stats(node.parts, asked);
  for (const each of [volume, block]) await node.setState(each, "connecting");
  const filesystem = await stats(node.parts, asked);
  assertEquals([filesystem.usage, filesystem.condition.abnormal], [usage, true]);
  const disk = await stats(node.parts, { ...block, volumePath: targetPath });
  assertEquals([disk.usage[0]?.total, disk.condition.abnormal], [GiB, true]);
});

onNode("stats() reports a path whose device is gone, and a filesystem that the kernel made read-only", async (node) => {
  const volume = await node.volume("ext4");
  await stage(node.parts, volume);
  const asked = { ...volume, volumePath: volume.stagingPath };
  await run("mount", "-o", "remount,abort", volume.stagingPath).catch(() => {}); // What ext4 does after an error.
  assertEquals((await stats(node.parts, asked)).condition.abnormal, true);
  const other = await node.volume("xfs");
  await stage(node.parts, other);
  await node.nvme("disconnect", "-n", node.nqn(other));
  const { condition } = await stats(node.parts, { ...other, volumePath: other.stagingPath });
  assertEquals([condition.abnormal, condition.message.includes("given up")], [true, true]);
});

const kinds = ["xfs", "block", "ext4"] as const;
for (const kind of kinds) {
  onNode(
    `expand() grows ${kind} while it is published, whichever path it is asked with, and is a no-op when it has`,
    async (node) => {
      const volume = await node.volume(kind);
      const { targetPath } = await node.up(volume, "target");
      await node.server.offer(node.nqn(volume), 2 * GiB);
      const asked = { ...volume, volumePath: targetPath, requiredBytes: 2 * GiB };
      if (kind === "ext4" && !await canGrowExt4()) {
        // The kernel of a container that is not privileged refuses: then the driver says what is missing.
        await assertRejects(() => expand(node.parts, asked), Error, "CAP_SYS_RESOURCE");
        return;
      }
      assertEquals(await expand(node.parts, asked), 2 * GiB);
      assertEquals(await expand(node.parts, asked), 2 * GiB);
      assertEquals(await expand(node.parts, { ...asked, requiredBytes: 0 }), 2 * GiB);
      const total = (await stats(node.parts, asked)).usage[0]?.total ?? 0;
      assert(total > 1.8 * GiB && total <= 2 * GiB, String(total));
    },
  );
}

onNode("expand() grows a filesystem that is published read-only, through its staging mount", async (node) => {
  const volume = await node.volume("xfs");
  await stage(node.parts, volume);
  const input = { ...node.at(volume, "target"), readOnly: true };
  await publish(node.parts, input);
  await node.server.offer(node.nqn(volume), 2 * GiB);
  await expand(node.parts, { ...volume, volumePath: input.targetPath, requiredBytes: 2 * GiB });
  const { usage } = await stats(node.parts, { ...volume, volumePath: input.targetPath });
  assert((usage[0]?.total ?? 0) > 1.8 * GiB);
});

onNode("expand() says what is missing: the volume, the growth, the capability", async (node) => {
  const volume = await node.volume("xfs");
  const asked = { ...volume, volumePath: volume.stagingPath, requiredBytes: 2 * GiB };
  await assertRejects(() => expand(node.parts, asked), NotFound, "not staged");
  await assertRejects(() => expand(node.parts, { ...asked, volumeId: "unknown" }), NotFound);
  await stage(node.parts, volume);
  await node.server.offer(node.nqn(volume), 2 * GiB, { seen: GiB });
  node.restart({ command: 2000 });
  await assertRejects(() => expand(node.parts, asked), Unreachable, "only on reconnection");
  node.restart();
  await node.server.offer(node.nqn(volume), 2 * GiB);
  node.commands.instead = (program) =>
    program === "xfs_growfs" ? { code: 1, stdout: "", stderr: "Permission denied" } : undefined;
  await assertRejects(() => expand(node.parts, asked), FailedPrecondition, "CAP_SYS_RESOURCE");
});

onNode("stats() knows nothing of the path of another volume", async (node) => {
  const [volume, other] = [await node.volume("ext4"), await node.volume("ext4")];
  for (const each of [volume, other]) await stage(node.parts, each);
  for (const volumePath of [other.stagingPath, node.standIn.folder]) {
    await assertRejects(() => stats(node.parts, { ...volume, volumePath }), NotFound);
  }
});

onNode("expand() grows nothing where the volume is not, or not any more", async (node) => {
  const volume = await node.volume("xfs");
  await stage(node.parts, volume);
  await node.server.offer(node.nqn(volume), 2 * GiB);
  const asked = { ...volume, volumePath: volume.stagingPath, requiredBytes: 2 * GiB };
  await assertRejects(() => expand(node.parts, { ...asked, volumePath: "/nonexistent/x" }), NotFound);
  await run("umount", volume.stagingPath);
  await assertRejects(() => expand(node.parts, asked), NotFound, "neither a mount nor a device node");
  await stage(node.parts, await node.volume("block"));
  const other = await node.volume("xfs");
  const { targetPath } = await node.up(other, "target");
  await assertRejects(
    () => expand(node.parts, { ...asked, volumePath: targetPath }),
    FailedPrecondition,
    "was replaced",
  );
});

onNode("expand() does not call grown what can only be read", async (node) => {
  const volume = { ...await node.volume("xfs"), readOnly: true };
  await stage(node.parts, volume);
  await node.server.offer(node.nqn(volume), 2 * GiB);
  const asked = { ...volume, volumePath: volume.stagingPath, requiredBytes: 2 * GiB };
  await assertRejects(() => expand(node.parts, asked), FailedPrecondition, "read-only");
});

onNode(
  "stats() asks the filesystem of a live session though a dead one of an older generation is there, and says so",
  async (node) => {
    const volume = await node.volume("ext4");
    const nqn = node.nqn(volume);
    await node.server.offer(`${nqn}.g1`, 2 ** 27);
    await node.nvme("connect", "-t", "tcp", "-a", "127.0.0.1", "-s", String(node.server.port), "-n", `${nqn}.g1`);
    const old = { ...volume, publishContext: { ...volume.publishContext, nvme_nqn: `${nqn}.g1` } };
    await node.setState(old, "connecting");
    await node.nvme("connect", "-t", "tcp", "-a", "127.0.0.1", "-s", String(node.server.port), "-n", nqn);
    const { path } = await node.parts.sessions.device(nqn);
    await run("mkfs.ext4", "-q", path);
    await run("mount", path, volume.stagingPath);
    const { usage, condition } = await stats(node.parts, { ...volume, volumePath: volume.stagingPath });
    assertEquals([usage.length, condition.abnormal], [2, true]);
    assert(condition.message.includes(`${nqn}.g1 is not live`), condition.message);
  },
);

onNode("expand() grows a filesystem whose device grew earlier, whatever size is asked for", async (node) => {
  for (const requiredBytes of [0, GiB, 2 * GiB]) {
    const volume = await node.volume("xfs");
    await stage(node.parts, volume);
    await node.server.offer(node.nqn(volume), 2 * GiB);
    const { name } = (await node.parts.sysfs.session(node.nqn(volume)))?.controllers[0] ?? {};
    await node.nvme("ns-rescan", `${node.standIn.roots.dev}/${name}`);
    const asked = { ...volume, volumePath: volume.stagingPath, requiredBytes };
    assertEquals(await expand(node.parts, asked), 2 * GiB, `${requiredBytes}`);
    const total = (await stats(node.parts, asked)).usage[0]?.total ?? 0;
    assert(total > 1.8 * GiB, `${requiredBytes}: ${total}`);
  }
});

onNode(
  "expand() of a block volume grows the device alone, whatever its user has made of it and mounted",
  async (node) => {
    const volume = await node.volume("block");
    const { targetPath } = await node.up(volume, "disk");
    await run("mkfs.xfs", "-q", targetPath);
    await Deno.mkdir(node.path("users"));
    await run("mount", targetPath, node.path("users"));
    await node.server.offer(node.nqn(volume), 2 * GiB);
    node.commands.started.length = 0;
    for (const volumePath of [targetPath, volume.stagingPath]) {
      assertEquals(await expand(node.parts, { ...volume, volumePath, requiredBytes: 2 * GiB }), 2 * GiB);
    }
    assertEquals(node.commands.started.filter((line) => !line.startsWith("nvme ")), []);
    assertEquals((await stats(node.parts, { ...volume, volumePath: targetPath })).usage, [
      { unit: "bytes", total: 2 * GiB },
    ]);
  },
);

onNode("expand() touches no device whose session is not live", async (node) => {
  const volume = await node.volume("xfs");
  await stage(node.parts, volume);
  await node.server.offer(node.nqn(volume), 2 * GiB);
  await node.setState(volume, "resetting");
  node.commands.started.length = 0;
  const asked = { ...volume, volumePath: volume.stagingPath, requiredBytes: 2 * GiB };
  await assertRejects(() => expand(node.parts, asked), Unreachable, "not live");
  assertEquals(node.commands.started, []);
});
