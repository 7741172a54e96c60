import { assert, assertEquals, assertRejects } from "@std/assert";
import { GiB, type TestNode } from "../../tests/nvme/node.ts";
import { onNode } from "../../tests/nvme/on_node.ts";
import { run } from "../../tests/nvme/stand_in.ts";
import { deviceNodeAt } from "../mounts/device_node.ts";
import { AlreadyExists, FailedPrecondition, Unreachable } from "../runtime/errors.ts";
import { publish, unpublish } from "./publish.ts";
import { stage } from "./stage.ts";
import type { StagingRecord } from "./records.ts";
import { mend } from "./recovery.ts";
import { unstage } from "./unstage.ts";

async function exists(path: string): Promise<boolean> {
  return await Deno.lstat(path).then(() => true, () => false);
}

onNode(
  "publish() of a filesystem stacks no mounts and unpublish() takes all of it away, however often",
  async (node) => {
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
);

onNode("publish() shows a filesystem at several targets, read-only where asked", async (node) => {
  const volume = await node.volume("ext4");
  await node.up(volume, "one");
  const two = { ...node.at(volume, "two"), readOnly: true };
  await publish(node.parts, two);
  await publish(node.parts, two);
  await Deno.writeTextFile(`${node.path("one")}/file`, "x");
  assertEquals(await Deno.readTextFile(`${node.path("two")}/file`), "x");
  await assertRejects(() => Deno.writeTextFile(`${node.path("two")}/file`, "y"));
});

onNode("publish() keeps a volume of one pod from a second target", async (node) => {
  for (const kind of ["ext4", "block"] as const) {
    const volume = await node.volume(kind);
    const first = { ...await node.up(volume, `first-${kind}`), exclusive: true };
    await publish(node.parts, first);
    const second = { ...first, targetPath: node.path(`second-${kind}`) };
    await assertRejects(() => publish(node.parts, second), FailedPrecondition, "ReadWriteOncePod");
    await unpublish(node.parts, first);
    await publish(node.parts, second);
  }
});

onNode(
  "publish() refuses a volume that is not staged, and one whose staging mount is another device's",
  async (node) => {
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
);

onNode("publish() refuses a target where another volume is mounted", async (node) => {
  const other = await node.up(await node.volume("ext4"), "target");
  const volume = await node.volume("ext4");
  await stage(node.parts, volume);
  await assertRejects(() => publish(node.parts, node.at(volume, "target")), AlreadyExists, "another device");
  await assertRejects(() => unpublish(node.parts, node.at(volume, "target")), FailedPrecondition, "left alone");
  assertEquals(await node.mountsAt(other.targetPath), 1);
});

onNode("publish() refuses a device smaller than the publish context says", async (node) => {
  const volume = await node.volume("ext4");
  await stage(node.parts, volume);
  node.restart({ command: 300 });
  const publishContext = { ...volume.publishContext, size_bytes: String(2 * GiB) };
  const input = { ...node.at(volume, "target"), publishContext };
  await assertRejects(() => publish(node.parts, input), Unreachable, "bytes");
  assertEquals(await exists(input.targetPath), false);
});

onNode(
  "publish() of a block volume makes a device node that works, and unpublish() removes the node alone",
  async (node) => {
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
);

onNode(
  "publish() of a block volume refuses a node of another device, also after its own was renumbered",
  async (node) => {
    const other = await node.up(await node.volume("block"), "disk");
    const volume = await node.volume("block");
    await stage(node.parts, volume);
    const before = await deviceNodeAt(other.targetPath);
    await assertRejects(() => publish(node.parts, node.at(volume, "disk")), AlreadyExists, "another device");
    assertEquals(await deviceNodeAt(other.targetPath), before);
    assert(before);
  },
);

onNode("publish() of a block volume does without its record, which is a hint", async (node) => {
  const volume = await node.volume("block");
  await stage(node.parts, volume);
  await node.parts.records.remove(volume.volumeId);
  await publish(node.parts, node.at(volume, "disk"));
  assertEquals((await node.parts.records.read(volume.volumeId))?.targets, [node.path("disk")]);
});

onNode(
  "publish() notes a volume anew that lost its record, as it was staged, so that it is mended as before",
  async (node) => {
    const volumes = [await node.volume("ext4"), await node.volume("xfs"), await node.volume("block")].map((volume) => {
      const { capability } = volume;
      return capability.kind === "block"
        ? volume
        : { ...volume, capability: { ...capability, mountOptions: ["noatime"] } };
    });
    for (const [index, volume] of volumes.entries()) {
      await stage(node.parts, volume);
      const before = await node.parts.records.read(volume.volumeId);
      await node.parts.records.remove(volume.volumeId);
      const isBlock = volume.capability.kind === "block";
      const input = { ...node.at(volume, `pod-${index}`), readOnly: !isBlock };
      await publish(node.parts, input);
      const targets = isBlock ? { targets: [input.targetPath] } : {};
      assertEquals(await node.parts.records.read(volume.volumeId), { ...before as StagingRecord, ...targets });
      await unpublish(node.parts, input);
      await node.nvme("disconnect", "-n", node.nqn(volume));
      assertEquals(await mend(node.parts, volume.volumeId) !== undefined, true);
      await unstage(node.parts, volume);
    }
  },
);

onNode(
  "publish() needs no record of a filesystem: neither room for one nor options that the driver would take itself",
  async (node) => {
    const volume = await node.volume("ext4");
    await stage(node.parts, volume);
    const { records } = node.parts;
    await records.remove(volume.volumeId);
    const write = records.write.bind(records);
    records.write = () => Promise.reject(new Error("no space left on device"));
    await publish(node.parts, node.at(volume, "full"));
    records.write = write;
    const capability = { kind: "filesystem" as const, fsType: "ext4", mountOptions: ["suid,remount"] };
    await publish(node.parts, { ...node.at(volume, "older"), capability });
    const record = await records.read(volume.volumeId);
    assertEquals([record?.stagingPath, record?.mount], [volume.stagingPath, undefined]);
  },
);

onNode("unpublish() removes no folder and no file with anything in it", async (node) => {
  const volume = await node.volume("ext4");
  const input = node.at(volume, "target");
  await Deno.mkdir(`${input.targetPath}/data`, { recursive: true });
  await assertRejects(() => unpublish(node.parts, input), FailedPrecondition, "empty folders");
  await Deno.writeTextFile(node.path("file"), "precious");
  await assertRejects(() => unpublish(node.parts, node.at(volume, "file")), FailedPrecondition, "left alone");
  assertEquals([await exists(`${input.targetPath}/data`), await exists(node.path("file"))], [true, true]);
});

onNode("unpublish() takes away what an older driver stacked", async (node) => {
  const volume = await node.volume("ext4");
  const input = await node.up(volume, "target");
  await Deno.writeTextFile(`${volume.stagingPath}/file`, "precious");
  await run("mount", "--bind", volume.stagingPath, input.targetPath);
  assertEquals(await node.mountsAt(input.targetPath), 2);
  await unpublish(node.parts, input);
  assertEquals([await exists(input.targetPath), await exists(`${volume.stagingPath}/file`)], [false, true]);
});

onNode("publish() touches no device whose session is not live, and unpublish() still ends", async (node) => {
  const volume = await node.volume("ext4");
  const input = await node.up(volume, "target");
  await node.setState(volume, "connecting");
  await assertRejects(() => publish(node.parts, input), Unreachable, "not live");
  await unpublish(node.parts, input);
  assertEquals(await exists(input.targetPath), false);
});

onNode(
  "publish() of a volume of one pod may be repeated while the pod has folders of it mounted elsewhere",
  async (node) => {
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
);

onNode(
  "publish() refuses the other mode at a target, and mends only the read-only mount that it began itself",
  async (node) => {
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
);

onNode(
  "publish() and unstage() of a block volume refuse while its record cannot be used, and unpublish() still ends",
  async (node) => {
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
);

onNode("unpublish() removes no node of another volume and no file that it did not make", async (node) => {
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
});

onNode("unpublish() refuses the last mount of a filesystem whose session is not live, and no other", async (node) => {
  const volume = await node.volume("ext4");
  const input = await node.up(volume, "target");
  const second = node.at(volume, "second");
  await publish(node.parts, second);
  await run("umount", volume.stagingPath);
  await run("mount", "--bind", input.targetPath, input.targetPath); // Stacked: both are last, together.
  await node.setState(volume, "connecting");
  await unpublish(node.parts, second);
  node.commands.started.length = 0;
  await assertRejects(() => unpublish(node.parts, input), Unreachable, "rds.csi.srvlab.io/let-go");
  assertEquals([node.commands.started, await node.mountsAt(input.targetPath)], [[], 2]);
  await node.setState(volume, "live");
  await unpublish(node.parts, input);
  assertEquals(await exists(input.targetPath), false);
});

/** A devtmpfs with nodes of these names, as the host's /dev has them. Its nodes are the whole machine's: they go again. */
async function devtmpfs(node: TestNode, nodes: Record<string, string>) {
  const folder = node.path("devtmpfs");
  await Deno.mkdir(folder);
  await run("mount", "-t", "devtmpfs", "devtmpfs", folder);
  for (const [name, number] of Object.entries(nodes)) {
    await run("mknod", `${folder}/${name}`, "b", ...number.split(":"));
  }
  const remove = async (name: string) => {
    await Deno.remove(`${folder}/${name}`).catch((error) => {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    });
  };
  return {
    folder,
    remove,
    async [Symbol.asyncDispose]() {
      for (const name of Object.keys(nodes)) await remove(name);
    },
  };
}

onNode(
  "unpublish() takes away what the Go driver made of a block volume, unless it is another volume's",
  async (node) => {
    const [volume, other] = [await node.volume("block"), await node.volume("block")];
    for (const each of [volume, other]) await stage(node.parts, each);
    await node.parts.records.remove(volume.volumeId); // That driver left none.
    const numberOf = async (each: typeof volume) => (await node.parts.sessions.device(node.nqn(each))).majorMinor;
    await using dev = await devtmpfs(node, {
      nvme4091n1: await numberOf(volume),
      nvme4092n1: await numberOf(other),
      nvme4093n1: "259:1048575",
      nvme4094n1: await numberOf(other),
      rds4095: await numberOf(volume),
    });
    const bound = async (name: string, at = name) => {
      const input = node.at(volume, `target-${at}`);
      await Deno.writeTextFile(input.targetPath, "");
      await run("mount", "--bind", `${dev.folder}/${name}`, input.targetPath);
      return input;
    };
    const own = await bound("nvme4091n1");
    await run("mount", "--bind", `${dev.folder}/nvme4091n1`, own.targetPath); // Published twice.
    await unpublish(node.parts, own);
    const gone = await bound("nvme4093n1"); // No NVMe device has this number.
    await unpublish(node.parts, gone);
    const deleted = await bound("nvme4094n1"); // What it stood for is gone, and another has the number now.
    await dev.remove("nvme4094n1");
    await unpublish(node.parts, deleted);
    for (const { targetPath } of [own, gone, deleted]) assertEquals(await exists(targetPath), false, targetPath);
    const foreign = await bound("nvme4092n1");
    await assertRejects(() => unpublish(node.parts, foreign), FailedPrecondition, node.nqn(other));
    const strange = await bound("rds4095"); // No name that a driver of NVMe would have bound.
    await assertRejects(() => unpublish(node.parts, strange), FailedPrecondition, "left alone");
    const over = await bound("nvme4092n1", "over");
    await run("mount", "--bind", `${dev.folder}/nvme4091n1`, over.targetPath); // Its own over another's.
    await assertRejects(() => unpublish(node.parts, over), FailedPrecondition, "left alone");
    for (const { targetPath } of [foreign, strange, over]) {
      assertEquals(await exists(targetPath), true, targetPath);
      while (await node.mountsAt(targetPath) > 0) await run("umount", targetPath);
    }
  },
);

onNode("unpublish() removes the empty file where the kubelet has block volumes, when a crash left it", async (node) => {
  const volume = await node.volume("block");
  const pod = "8a2f3c1e-5b6d-4e7f-8a9b-0c1d2e3f4a5b";
  const folder = `${node.kubeletFolder}/plugins/kubernetes.io/csi/volumeDevices/publish/pv`;
  await Deno.mkdir(folder, { recursive: true });
  for (const name of [pod, "no-pod"]) await Deno.writeTextFile(`${folder}/${name}`, "");
  await unpublish(node.parts, { ...volume, targetPath: `${folder}/${pod}` });
  assertEquals(await exists(`${folder}/${pod}`), false);
  await assertRejects(() => unpublish(node.parts, { ...volume, targetPath: `${folder}/no-pod` }), FailedPrecondition);
  await Deno.writeTextFile(`${folder}/${pod}`, "x");
  await assertRejects(() => unpublish(node.parts, { ...volume, targetPath: `${folder}/${pod}` }), FailedPrecondition);
});

onNode(
  "publish() lets programs of the volume run, and leaves the owner and mode that Kubernetes gave its root",
  async (node) => {
    const volume = await node.volume("ext4");
    const input = await node.up(volume, "target");
    await Deno.writeTextFile(`${input.targetPath}/program`, "#!/bin/sh\necho runs\n", { mode: 0o755 });
    assertEquals(await run(`${input.targetPath}/program`), "runs\n");
    await run("chown", "0:2000", input.targetPath); // As the kubelet does for fsGroup.
    await run("chmod", "2775", input.targetPath);
    await unpublish(node.parts, input);
    await unstage(node.parts, volume);
    await stage(node.parts, volume);
    await publish(node.parts, input);
    assertEquals(await run("stat", "-c", "%g %a", input.targetPath), "2000 2775\n");
  },
);
