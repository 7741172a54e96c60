import { assert, assertEquals, assertRejects } from "@std/assert";
import { GiB, TestNode } from "../../tests/nvme/node.ts";
import { run, whyNoStandIn } from "../../tests/nvme/stand_in.ts";
import { deviceNodeAt } from "../mounts/device_node.ts";
import { AlreadyExists, FailedPrecondition, Unreachable } from "../runtime/errors.ts";
import { publish, unpublish } from "./publish.ts";
import { stage } from "./stage.ts";
import { unstage } from "./unstage.ts";

const ignore = await whyNoStandIn() !== undefined;

async function exists(path: string): Promise<boolean> {
  return await Deno.lstat(path).then(() => true, () => false);
}

Deno.test({
  name: "publish() of a filesystem stacks no mounts and unpublish() takes all of it away, however often",
  ignore,
  async fn() {
    await using node = await TestNode.start();
    const volume = await node.volume("ext4");
    const input = await node.up(volume, "target");
    await publish(node.parts, input);
    await publish(node.parts, input);
    assertEquals(await node.mountsAt(input.targetPath), 1);
    await Deno.writeTextFile(`${input.targetPath}/file`, "precious");
    await unpublish(node.parts, input);
    await unpublish(node.parts, input);
    assertEquals([await exists(input.targetPath), await node.mountsAt(volume.stagingPath)], [false, 1]);
    assertEquals(await Deno.readTextFile(`${volume.stagingPath}/file`), "precious");
  },
});

Deno.test({
  name: "publish() shows a filesystem at several targets, read-only where asked",
  ignore,
  async fn() {
    await using node = await TestNode.start();
    const volume = await node.volume("ext4");
    await node.up(volume, "one");
    const two = { ...node.at(volume, "two"), readOnly: true };
    await publish(node.parts, two);
    await publish(node.parts, two);
    await Deno.writeTextFile(`${node.path("one")}/file`, "x");
    assertEquals(await Deno.readTextFile(`${node.path("two")}/file`), "x");
    await assertRejects(() => Deno.writeTextFile(`${node.path("two")}/file`, "y"));
  },
});

Deno.test({
  name: "publish() keeps a volume of one pod from a second target",
  ignore,
  async fn() {
    await using node = await TestNode.start();
    for (const kind of ["ext4", "block"] as const) {
      const volume = await node.volume(kind);
      const first = { ...await node.up(volume, `first-${kind}`), exclusive: true };
      await publish(node.parts, first);
      const second = { ...first, targetPath: node.path(`second-${kind}`) };
      await assertRejects(() => publish(node.parts, second), FailedPrecondition, "ReadWriteOncePod");
      await unpublish(node.parts, first);
      await publish(node.parts, second);
    }
  },
});

Deno.test({
  name: "publish() refuses a volume that is not staged, and one whose staging mount is another device's",
  ignore,
  async fn() {
    await using node = await TestNode.start();
    const volume = await node.volume("ext4");
    const input = node.at(volume, "target");
    await assertRejects(() => publish(node.parts, input), FailedPrecondition, "not staged");
    const block = { ...volume, capability: { kind: "block" as const } };
    await stage(node.parts, block);
    await assertRejects(() => publish(node.parts, input), FailedPrecondition, "not staged at");
    await run("mount", "-t", "tmpfs", "other", volume.stagingPath);
    await assertRejects(() => publish(node.parts, input), FailedPrecondition, "not staged at");
    assertEquals(await exists(input.targetPath), false);
    await run("umount", volume.stagingPath);
    await stage(node.parts, volume);
    await assertRejects(
      () => publish(node.parts, node.at(volume, "absent/target")),
      FailedPrecondition,
      "folder above",
    );
  },
});

Deno.test({
  name: "publish() refuses a target where another volume is mounted",
  ignore,
  async fn() {
    await using node = await TestNode.start();
    const other = await node.up(await node.volume("ext4"), "target");
    const volume = await node.volume("ext4");
    await stage(node.parts, volume);
    await assertRejects(() => publish(node.parts, node.at(volume, "target")), AlreadyExists, "another device");
    await assertRejects(() => unpublish(node.parts, node.at(volume, "target")), FailedPrecondition, "left alone");
    assertEquals(await node.mountsAt(other.targetPath), 1);
  },
});

Deno.test({
  name: "publish() refuses a device smaller than the publish context says",
  ignore,
  async fn() {
    await using node = await TestNode.start({ command: 300 });
    const volume = await node.volume("ext4");
    await stage(node.parts, volume);
    const publishContext = { ...volume.publishContext, size_bytes: String(2 * GiB) };
    const input = { ...node.at(volume, "target"), publishContext };
    await assertRejects(() => publish(node.parts, input), Unreachable, "bytes");
    assertEquals(await exists(input.targetPath), false);
  },
});

Deno.test({
  name: "publish() of a block volume makes a device node that works, and unpublish() removes the node alone",
  ignore,
  async fn() {
    await using node = await TestNode.start();
    const volume = await node.volume("block");
    const input = await node.up(volume, "disk");
    await publish(node.parts, input);
    await run("dd", "if=/dev/urandom", `of=${input.targetPath}`, "bs=1M", "count=4", "conv=fsync");
    assertEquals(await run("cmp", "-n", "4194304", input.targetPath, node.server.file(node.nqn(volume))), "");
    assertEquals(await node.mountsAt(input.targetPath), 0);
    await unpublish(node.parts, input);
    await unpublish(node.parts, input);
    assertEquals([await exists(input.targetPath), await node.sessions(volume)], [false, 1]);
    assertEquals((await node.parts.records.read(volume.volumeId))?.targets, []);
  },
});

Deno.test({
  name: "publish() of a block volume refuses a node of another device, also after its own was renumbered",
  ignore,
  async fn() {
    await using node = await TestNode.start();
    const other = await node.up(await node.volume("block"), "disk");
    const volume = await node.volume("block");
    await stage(node.parts, volume);
    const before = await deviceNodeAt(other.targetPath);
    await assertRejects(() => publish(node.parts, node.at(volume, "disk")), AlreadyExists, "another device");
    assertEquals(await deviceNodeAt(other.targetPath), before);
    assert(before);
  },
});

Deno.test({
  name: "publish() of a block volume does without its record, which is a hint",
  ignore,
  async fn() {
    await using node = await TestNode.start();
    const volume = await node.volume("block");
    await stage(node.parts, volume);
    await node.parts.records.remove(volume.volumeId);
    await publish(node.parts, node.at(volume, "disk"));
    assertEquals((await node.parts.records.read(volume.volumeId))?.targets, [node.path("disk")]);
  },
});

Deno.test({
  name: "unpublish() removes no folder and no file with anything in it",
  ignore,
  async fn() {
    await using node = await TestNode.start();
    const volume = await node.volume("ext4");
    const input = node.at(volume, "target");
    await Deno.mkdir(`${input.targetPath}/data`, { recursive: true });
    await assertRejects(() => unpublish(node.parts, input), FailedPrecondition, "empty folders");
    await Deno.writeTextFile(node.path("file"), "precious");
    await assertRejects(() => unpublish(node.parts, node.at(volume, "file")), FailedPrecondition, "left alone");
    assertEquals([await exists(`${input.targetPath}/data`), await exists(node.path("file"))], [true, true]);
  },
});

Deno.test({
  name: "unpublish() takes away what an older driver stacked",
  ignore,
  async fn() {
    await using node = await TestNode.start();
    const volume = await node.volume("ext4");
    const input = await node.up(volume, "target");
    await Deno.writeTextFile(`${volume.stagingPath}/file`, "precious");
    await run("mount", "--bind", volume.stagingPath, input.targetPath);
    assertEquals(await node.mountsAt(input.targetPath), 2);
    await unpublish(node.parts, input);
    assertEquals([await exists(input.targetPath), await exists(`${volume.stagingPath}/file`)], [false, true]);
  },
});

Deno.test({
  name: "publish() touches no device whose session is not live, and unpublish() still ends",
  ignore,
  async fn() {
    await using node = await TestNode.start();
    const volume = await node.volume("ext4");
    const input = await node.up(volume, "target");
    await node.setState(volume, "connecting");
    await assertRejects(() => publish(node.parts, input), Unreachable, "not live");
    await unpublish(node.parts, input);
    assertEquals(await exists(input.targetPath), false);
  },
});

Deno.test({
  name: "publish() of a volume of one pod may be repeated while the pod has folders of it mounted elsewhere",
  ignore,
  async fn() {
    await using node = await TestNode.start();
    const input = { ...await node.up(await node.volume("ext4"), "target"), exclusive: true };
    await Deno.mkdir(`${input.targetPath}/folder`);
    await Deno.mkdir(node.path("subpath"));
    await run("mount", "--bind", `${input.targetPath}/folder`, node.path("subpath"));
    await publish(node.parts, input);
    await assertRejects(
      () => publish(node.parts, { ...input, targetPath: node.path("second") }),
      FailedPrecondition,
      "ReadWriteOncePod",
    );
  },
});

Deno.test({
  name: "publish() refuses the other mode at a target, and mends only the read-only mount that it began itself",
  ignore,
  async fn() {
    await using node = await TestNode.start();
    const volume = await node.volume("ext4");
    const input = await node.up(volume, "target");
    await assertRejects(() => publish(node.parts, { ...input, readOnly: true }), AlreadyExists, "mounted writable");
    const reader = { ...node.at(volume, "reader"), readOnly: true };
    node.commands.instead = (program, args) =>
      program === "mount" && args.includes("remount,bind,ro") ? Promise.reject(new Error("killed")) : undefined;
    await assertRejects(() => publish(node.parts, reader), Error, "killed");
    node.commands.instead = () => undefined;
    node.restart();
    await publish(node.parts, reader);
    assert((await node.parts.mounts.at(reader.targetPath))?.options.includes("ro"));
    assertEquals((await node.parts.records.read(volume.volumeId))?.readOnlyTarget, undefined);
    await assertRejects(() => publish(node.parts, { ...reader, readOnly: false }), AlreadyExists, "mounted read-only");
  },
});

Deno.test({
  name: "publish() and unstage() of a block volume refuse while its record cannot be used, and unpublish() still ends",
  ignore,
  async fn() {
    await using node = await TestNode.start();
    const volume = await node.volume("block");
    const one = await node.up(volume, "one");
    const path = `${node.standIn.folder}/records/${volume.volumeId}.json`;
    const text = await Deno.readTextFile(path);
    await Deno.writeTextFile(path, text.slice(0, 20));
    await assertRejects(() => publish(node.parts, node.at(volume, "two")), FailedPrecondition, path);
    await assertRejects(() => unstage(node.parts, volume), FailedPrecondition, path);
    assertEquals([await node.sessions(volume), await exists(node.path("two"))], [1, false]);
    await unpublish(node.parts, one);
    assertEquals(await exists(one.targetPath), false);
  },
});

Deno.test({
  name: "unpublish() removes no node of another volume and no file that it did not make",
  ignore,
  async fn() {
    await using node = await TestNode.start();
    const [volume, other] = [await node.volume("block"), await node.volume("block")];
    await stage(node.parts, volume);
    const { targetPath } = await node.up(other, "disk");
    await assertRejects(() => unpublish(node.parts, { ...volume, targetPath }), FailedPrecondition, node.nqn(other));
    assert(await deviceNodeAt(targetPath));
    const empty = node.at(volume, "empty");
    await Deno.writeTextFile(empty.targetPath, "");
    await assertRejects(() => unpublish(node.parts, empty), FailedPrecondition, "left alone");
    const record = await node.parts.records.read(volume.volumeId);
    assert(record);
    await node.parts.records.write({ ...record, targets: [empty.targetPath] });
    await unpublish(node.parts, empty);
    assertEquals(await exists(empty.targetPath), false);
    await unpublish(node.parts, { ...volume, targetPath: `${node.path("file")}/below/it` });
    await Deno.writeTextFile(node.path("file"), "");
    await unpublish(node.parts, { ...volume, targetPath: `${node.path("file")}/below` });
  },
});
