import { assert, assertEquals, assertRejects } from "@std/assert";
import { GiB, prefix, TestNode } from "../../tests/nvme/node.ts";
import { TestCluster } from "../../tests/nvme/cluster.ts";
import { onNode } from "../../tests/nvme/on_node.ts";
import { run, whyNoStandIn } from "../../tests/nvme/stand_in.ts";
import { NotInstalled, Stuck } from "../runtime/command.ts";
import { AlreadyExists, Cancelled, FailedPrecondition, InvalidArgument, Unreachable } from "../runtime/errors.ts";
import { publish, unpublish } from "./publish.ts";
import { stage } from "./stage.ts";
import { unstage } from "./unstage.ts";
import type { VolumeInput } from "./volume.ts";

const ignore = await whyNoStandIn() !== undefined;

const made = (node: TestNode) => node.commands.started.filter((line) => line.startsWith("mkfs.")).length;

/** The volume as it is asked for on the next call, with another context. */
function changed(volume: VolumeInput, context: Record<string, string>): VolumeInput {
  return { ...volume, publishContext: { ...volume.publishContext, ...context } };
}

for (const type of ["ext4", "ext3", "xfs"] as const) {
  onNode(
    `stage() makes ${type} once on an empty device, mounts it once, and keeps it over unstage and stage`,
    async (node) => {
      const volume = await node.volume(type);
      await stage(node.parts, volume);
      await stage(node.parts, volume);
      assertEquals(await node.mountsAt(volume.stagingPath), 1);
      assertEquals((await node.parts.mounts.at(volume.stagingPath))?.fsType, type);
      await Deno.writeTextFile(`${volume.stagingPath}/file`, "precious");
      await unstage(node.parts, volume);
      assertEquals([await node.mountsAt(volume.stagingPath), await node.sessions(volume)], [0, 0]);
      await stage(node.parts, volume);
      assertEquals(await Deno.readTextFile(`${volume.stagingPath}/file`), "precious");
      assertEquals(made(node), 1);
    },
  );
}

onNode("stage() of a block volume connects it and leaves nothing at the staging path", async (node) => {
  const volume = await node.volume("block");
  await stage(node.parts, volume);
  await stage(node.parts, volume);
  assertEquals([await node.sessions(volume), await node.mountsAt(volume.stagingPath)], [1, 0]);
  assertEquals(Array.from(Deno.readDirSync(volume.stagingPath)), []);
  assertEquals(made(node), 0);
  assertEquals((await node.parts.records.read(volume.volumeId))?.kind, "block");
});

onNode("stage() formats nothing that is not proven empty, and writes nothing to it", async (node) => {
  const noise = (file: string, at: number) =>
    run("dd", "if=/dev/urandom", `of=${file}`, "bs=1K", `seek=${at}`, "count=1", "conv=notrunc");
  const MiB = 2 ** 20;
  const fillers: [found: string, size: number, fill: (file: string) => Promise<unknown>][] = [
    ["the MiB at byte 0", 64 * MiB, (file) => noise(file, 7)],
    [`the MiB at byte ${63 * MiB}`, 64 * MiB, (file) => noise(file, 64 * 1024 - 1)],
    ["xfs", 320 * MiB, (file) => run("mkfs.xfs", "-q", file)],
    ["swap", 64 * MiB, (file) => run("mkswap", "-q", file)],
  ];
  for (const [found, size, fill] of fillers) {
    const volume = await node.volume("ext4", size);
    const file = node.server.file(node.nqn(volume));
    await fill(file);
    const before = await run("sha256sum", file);
    await assertRejects(() => stage(node.parts, volume), FailedPrecondition, found);
    await assertRejects(() => stage(node.parts, volume), FailedPrecondition, "start a pod there");
    assertEquals(await run("sha256sum", file), before);
  }
  assertEquals(made(node), 0);
});

onNode("stage() refuses an NQN that is foreign or another volume's, before it runs anything", async (node) => {
  const volume = await node.volume("ext4");
  const other = await node.volume("ext4");
  for (const nvme_nqn of ["nqn.2000-02.com.mikrotik:nixos-var", node.nqn(other), `${node.nqn(volume)}.g0`]) {
    await assertRejects(() => stage(node.parts, changed(volume, { nvme_nqn })), InvalidArgument, "not connected");
  }
  await assertRejects(() => stage(node.parts, { ...volume, volumeId: "nixos-var" }), InvalidArgument, "no volume");
  assertEquals(node.commands.started, []);
});

onNode("stage() takes the generation of the publish context", async (node) => {
  const volume = await node.volume("ext4");
  const nqn = `${node.nqn(volume)}.g3`;
  await node.server.offer(nqn, GiB);
  await stage(node.parts, changed(volume, { nvme_nqn: nqn }));
  assertEquals((await node.parts.sessions.ofVolume(volume.volumeId)).map(({ generation }) => generation), [3]);
  await unstage(node.parts, volume);
  assertEquals(await node.sessions(volume), 0);
});

onNode("stage() lives with the contexts of older PVs and refuses values that are wrong, by name", async (node) => {
  const { publishContext, ...volume } = await node.volume("ext4");
  const old = { nvmeAddress: "127.0.0.1", nvmePort: String(node.server.port), nqn: publishContext.nvme_nqn ?? "" };
  await stage(node.parts, { ...volume, publishContext: {}, volumeContext: old });
  assert(node.commands.started.some((line) => line.includes(" --ctrl-loss-tmo=-1 --reconnect-delay=5")));
  const wrong: Record<string, string>[] = [{ nvmePort: "0" }, { ctrlLossTmo: "-2" }, { reconnectDelay: "1s" }, {
    keepAliveTmo: "x",
  }];
  for (const context of wrong) {
    const input = { ...volume, publishContext: {}, volumeContext: { ...old, ...context } };
    await assertRejects(() => stage(node.parts, input), InvalidArgument, Object.keys(context)[0] ?? "");
  }
  for (const nvmeAddress of ["", "-x", "a b", "$(id)"]) {
    const input = { ...volume, publishContext: {}, volumeContext: { ...old, nvmeAddress } };
    await assertRejects(() => stage(node.parts, input), InvalidArgument, "nvmeAddress");
  }
});

Deno.test({
  name: "stage() refuses a device that is smaller than the publish context says, and formats nothing",
  ignore,
  async fn() {
    await using node = await TestNode.start({ command: 500 });
    const volume = await node.volume("ext4");
    const larger = changed(volume, { size_bytes: String(GiB + 2 ** 20) });
    await assertRejects(() => stage(node.parts, larger), Unreachable, `${GiB} bytes`);
    assertEquals([made(node), await node.mountsAt(volume.stagingPath)], [0, 0]);
  },
});

onNode("stage() sees the growth of a device that stayed connected, and grows the filesystem", async (node) => {
  const volume = await node.volume("xfs");
  await stage(node.parts, volume);
  await run("umount", volume.stagingPath); // The session is still there, as after an agent that was killed.
  await node.server.offer(node.nqn(volume), 2 * GiB);
  await stage(node.parts, changed(volume, { size_bytes: String(2 * GiB) }));
  const { blocks, bsize } = await import("node:fs/promises").then(({ statfs }) => statfs(volume.stagingPath));
  assert(Number(blocks) * Number(bsize) > 1.8 * GiB);
});

onNode("stage() writes nothing when the device changes between the proof and mkfs", async (node) => {
  const volume = await node.volume("ext4");
  node.commands.instead = async (program) => {
    if (program !== "cmp") return undefined as never;
    await Deno.writeTextFile(`${node.standIn.roots.sysfs}/class/block/nvme0n1/nsid`, "2\n");
    return { code: 0, stdout: "", stderr: "" };
  };
  await assertRejects(() => stage(node.parts, volume), Unreachable, "changed while it was looked at");
  assertEquals(made(node), 0);
});

onNode("stage() looks into no device that is mounted, at its staging path or elsewhere", async (node) => {
  const volume = await node.volume("ext4");
  await node.up(volume, "target");
  const tools = /^(blkid|wipefs|cmp|e2fsck|mkfs)/;
  node.commands.started.length = 0;
  await stage(node.parts, volume);
  await run("umount", volume.stagingPath);
  await stage(node.parts, volume);
  assertEquals(node.commands.started.filter((line) => tools.test(line)), []);
  assertEquals(await node.mountsAt(volume.stagingPath), 1);
});

onNode("stage() refuses a staging path where another device is mounted", async (node) => {
  const volume = await node.volume("ext4");
  await run("mount", "-t", "tmpfs", "other", volume.stagingPath);
  await assertRejects(() => stage(node.parts, volume), AlreadyExists, "another device");
  assertEquals(await node.mountsAt(volume.stagingPath), 1);
});

onNode(
  "stage() finishes a mkfs that this node began and did not see the end of; another node refuses it",
  async (node) => {
    const interrupted: ["ext4" | "xfs", (file: string) => Promise<unknown>][] = [
      // mkfs.ext4 writes its superblock last: until then there is data that nobody can name.
      ["ext4", (file) => run("dd", "if=/dev/urandom", `of=${file}`, "bs=4K", "seek=16", "count=2", "conv=notrunc")],
      ["xfs", async (file) => {
        await run("mkfs.xfs", "-q", file);
        await run("sh", "-c", `printf '\\001' | dd of='${file}' bs=1 seek=126 conv=notrunc`); // sb_inprogress
      }],
    ];
    for (const [type, cut] of interrupted) {
      const volume = await node.volume(type);
      node.commands.instead = async (program) => {
        if (!program.startsWith("mkfs.")) return undefined as never;
        assertEquals((await node.parts.records.read(volume.volumeId))?.mkfs, type, "the intent is on disk before mkfs");
        await cut(node.server.file(node.nqn(volume)));
        return { code: 137, stdout: "", stderr: "Killed" };
      };
      await assertRejects(() => stage(node.parts, volume), Unreachable, "137");
      node.commands.instead = () => undefined;
      await unstage(node.parts, volume); // The pod went away meanwhile: the intent stays.
      node.restart();
      const record = await node.parts.records.read(volume.volumeId);
      await node.parts.records.remove(volume.volumeId); // As on any other node.
      await assertRejects(() => stage(node.parts, volume), FailedPrecondition, "start a pod there, which finishes it");
      if (record) await node.parts.records.write(record);
      await stage(node.parts, volume);
      assertEquals((await node.parts.mounts.at(volume.stagingPath))?.fsType, type);
      assertEquals((await node.parts.records.read(volume.volumeId))?.mkfs, undefined);
    }
  },
);

onNode("stage() drops an old intent when the filesystem is there, and formats nothing again", async (node) => {
  const volume = await node.volume("ext4");
  await stage(node.parts, volume);
  await Deno.writeTextFile(`${volume.stagingPath}/file`, "precious");
  const record = await node.parts.records.read(volume.volumeId);
  await unstage(node.parts, volume);
  if (record) await node.parts.records.write({ ...record, mkfs: "ext4" }); // Killed between mkfs and its record.
  await stage(node.parts, volume);
  assertEquals(await Deno.readTextFile(`${volume.stagingPath}/file`), "precious");
  assertEquals([made(node), (await node.parts.records.read(volume.volumeId))?.mkfs], [1, undefined]);
});

onNode("stage() mounts a filesystem whose journal was not replayed, as after a crash", async (node) => {
  for (const type of ["ext4", "xfs"] as const) {
    const volume = await node.volume(type);
    const file = node.server.file(node.nqn(volume));
    await stage(node.parts, volume);
    await Deno.writeTextFile(`${volume.stagingPath}/file`, "precious");
    await run("sync", "-f", volume.stagingPath);
    await Deno.writeTextFile(`${volume.stagingPath}/more`, "x".repeat(100_000));
    await run("sync", "-f", volume.stagingPath);
    await run("cp", "--sparse=always", file, `${file}.crashed`); // What the server has when the node loses power.
    await unstage(node.parts, volume);
    await Deno.rename(`${file}.crashed`, file);
    await stage(node.parts, volume);
    assertEquals(await Deno.readTextFile(`${volume.stagingPath}/file`), "precious", type);
  }
});

onNode("stage() mounts with the options asked for, read-only where the access mode says so", async (node) => {
  const volume = await node.volume("ext4");
  const capability = { kind: "filesystem" as const, fsType: "", mountOptions: ["noatime", "discard"] };
  await stage(node.parts, { ...volume, capability, readOnly: true });
  const mount = await node.parts.mounts.at(volume.stagingPath);
  assertEquals(["noatime", "ro"].every((option) => mount?.options.includes(option)), true);
  assertEquals([mount?.fsType, mount?.superOptions.includes("discard")], ["ext4", true]);
  const refused = { ...capability, mountOptions: ["loop"] };
  await assertRejects(() => stage(node.parts, { ...volume, capability: refused }), InvalidArgument, "loop");
  const unknown = { ...capability, fsType: "btrfs" };
  await assertRejects(() => stage(node.parts, { ...volume, capability: unknown }), InvalidArgument, "btrfs");
});

Deno.test({
  name: "stage() touches no device whose session is not live",
  ignore,
  async fn() {
    await using node = await TestNode.start({ connect: 3000 });
    const volume = await node.volume("ext4");
    await stage(node.parts, volume);
    await node.setState(volume, "connecting");
    node.commands.started.length = 0;
    await assertRejects(() => stage(node.parts, volume), Unreachable, "connecting");
    assertEquals(node.commands.started, []);
    await node.setState(volume, "live");
  },
});

onNode("stage() of many volumes at once gives each its own device", async (node) => {
  const volumes = await Promise.all(Array.from({ length: 6 }, () => node.volume("ext4", GiB / 4)));
  await Promise.all(volumes.map((volume) => stage(node.parts, volume)));
  const numbers = await Promise.all(
    volumes.map(async (volume) => (await node.parts.mounts.at(volume.stagingPath))?.majorMinor),
  );
  assertEquals(new Set(numbers).size, volumes.length);
  assertEquals(numbers.includes(undefined), false);
  assert(node.nqn(volumes[0] as VolumeInput).startsWith(prefix));
});

/** Leaves the note of a mkfs that began, as after a mkfs that failed before it wrote anything. */
async function withIntent(node: TestNode, volume: VolumeInput): Promise<void> {
  node.commands.instead = (program) =>
    program.startsWith("mkfs.") ? { code: 1, stdout: "", stderr: "cannot start" } : undefined;
  await assertRejects(() => stage(node.parts, volume), Unreachable, "cannot start");
  node.commands.instead = () => undefined;
  await unstage(node.parts, volume);
  assertEquals(typeof (await node.parts.records.read(volume.volumeId))?.mkfs, "string");
  node.commands.started.length = 0;
}

onNode(
  "stage() does not take a filesystem that lost its first superblock for its own interrupted mkfs",
  async (node) => {
    for (const type of ["ext4", "xfs"] as const) {
      const volume = await node.volume(type);
      await withIntent(node, volume);
      const file = node.server.file(node.nqn(volume)); // Another node makes the filesystem, and then it is damaged.
      await run(`mkfs.${type}`, "-q", file);
      await run("dd", "if=/dev/urandom", `of=${file}`, "bs=4K", "count=1", "conv=notrunc");
      await assertRejects(() => stage(node.parts, volume), FailedPrecondition, "not formatted");
      assertEquals(made(node), 0);
    }
  },
);

/** A mkfs that was cut off when the copies of the superblock were written and the superblock was not. */
async function cutOffLate(node: TestNode): Promise<VolumeInput> {
  const volume = await node.volume("ext4");
  node.commands.instead = async (program) => {
    if (!program.startsWith("mkfs.")) return undefined as never;
    const file = node.server.file(node.nqn(volume));
    await run("mkfs.ext4", "-q", file);
    await run("dd", "if=/dev/zero", `of=${file}`, "bs=1K", "seek=1", "count=1", "conv=notrunc");
    return { code: 143, stdout: "", stderr: "Terminated" };
  };
  await assertRejects(() => stage(node.parts, volume), Unreachable, "143");
  node.commands.instead = () => undefined;
  node.restart();
  return volume;
}

onNode(
  "stage() finishes a mkfs that was cut off before its first superblock, unless the volume was disconnected since",
  async (node) => {
    const volume = await cutOffLate(node);
    await stage(node.parts, volume);
    assertEquals((await node.parts.mounts.at(volume.stagingPath))?.fsType, "ext4");
    const { mkfs, mkfsLeft } = await node.parts.records.read(volume.volumeId) ?? {};
    assertEquals([mkfs, mkfsLeft], [undefined, undefined]);

    const left = await cutOffLate(node);
    await node.parts.sessions.disconnect(node.nqn(left)); // Not by unstage: as after a reboot of the node.
    node.commands.instead = (program) => program === "blkid" ? { code: 9, stdout: "", stderr: "late" } : undefined;
    await assertRejects(() => stage(node.parts, left), Unreachable, "late"); // That leaves it connected.
    node.commands.instead = () => undefined;
    await assertRejects(() => stage(node.parts, left), FailedPrecondition, "not formatted");
  },
);

onNode("stage() honours no intent of another export of the volume", async (node) => {
  const volume = await node.volume("ext4");
  await withIntent(node, volume);
  const nvme_nqn = `${node.nqn(volume)}.g1`;
  await node.server.offer(nvme_nqn, GiB);
  await run("dd", "if=/dev/urandom", `of=${node.server.file(nvme_nqn)}`, "bs=1M", "count=1", "conv=notrunc");
  await assertRejects(() => stage(node.parts, changed(volume, { nvme_nqn })), FailedPrecondition, "not formatted");
  assertEquals(made(node), 0);
});

onNode(
  "stage() takes its intent back as soon as mkfs has ended, and unstage() when the filesystem was mounted",
  async (node) => {
    const volume = await node.volume("ext4");
    let seen: unknown = "nothing";
    node.commands.instead = async (program) => {
      if (program === "mount") seen = await node.parts.records.read(volume.volumeId);
      return undefined as never;
    };
    await stage(node.parts, volume);
    assertEquals((seen as { mkfs?: string }).mkfs, undefined);
    const record = await node.parts.records.read(volume.volumeId);
    assert(record);
    await node.parts.records.write({ ...record, mkfs: "ext4" });
    await unstage(node.parts, volume);
    assertEquals(await node.parts.records.read(volume.volumeId), undefined);
  },
);

onNode("stage() leaves no intent of a mkfs that was never begun", async (node) => {
  const volume = await node.volume("ext4");
  node.commands.instead = (program) =>
    program.startsWith("mkfs.") ? Promise.reject(new NotInstalled("not installed")) : undefined;
  await assertRejects(() => stage(node.parts, volume), NotInstalled);
  assertEquals((await node.parts.records.read(volume.volumeId))?.mkfs, undefined);
  node.commands.instead = () => undefined;
  const caller = new AbortController();
  const write = node.parts.records.write.bind(node.parts.records);
  node.parts.records.write = async (record) => {
    await write(record);
    caller.abort(); // Between the note and mkfs.
  };
  await assertRejects(() => stage(node.parts, volume, { signal: caller.signal }), Cancelled);
  assertEquals([made(node), (await node.parts.records.read(volume.volumeId))?.mkfs], [1, undefined]);
});

onNode(
  "stage() that is refused leaves no session that it made, and none of those that were there is ended",
  async (node) => {
    const volume = await node.volume("ext4");
    await run("mkfs.xfs", "-q", node.server.file(node.nqn(volume)));
    await assertRejects(() => stage(node.parts, volume), FailedPrecondition, "xfs");
    assertEquals(await node.sessions(volume), 0);
    node.commands.instead = (program, [first]) =>
      program === "nvme" && first === "disconnect"
        ? Promise.reject(new Stuck("'nvme disconnect' hangs", Promise.resolve()))
        : undefined;
    await assertRejects(() => stage(node.parts, volume), Stuck, "hangs", "the volume must stay guarded");
    node.commands.instead = () => undefined;
    await stage(node.parts, { ...volume, capability: { kind: "block" } });
    await assertRejects(() => stage(node.parts, volume), FailedPrecondition, "xfs");
    assertEquals(await node.sessions(volume), 1);
  },
);

onNode("stage() refuses a staging path that is a link, before it connects", async (node) => {
  const volume = await node.volume("ext4");
  await Deno.remove(volume.stagingPath);
  await Deno.mkdir(node.path("elsewhere"));
  await Deno.symlink(node.path("elsewhere"), volume.stagingPath);
  await assertRejects(() => stage(node.parts, volume), FailedPrecondition, "symbolic link");
  assertEquals(node.commands.started, []);
});

/** A staged volume whose export has moved to a new generation of its NQN. */
async function moved(node: TestNode) {
  const cluster = new TestCluster();
  node.parts = { ...node.parts, cluster };
  const volume = await node.volume("ext4");
  await stage(node.parts, volume);
  const [old, nvme_nqn] = [node.nqn(volume), `${node.nqn(volume)}.g1`];
  await node.server.withdraw(old);
  await node.server.offer(nvme_nqn, GiB);
  const generations = async () =>
    (await node.parts.sessions.ofVolume(volume.volumeId)).map(({ generation }) => generation);
  return { cluster, volume, old, nvme_nqn, next: changed(volume, { nvme_nqn }), generations };
}

onNode(
  "stage() refuses a volume of which another generation is connected and live, unless Kubernetes has it attached anew",
  async (node) => {
    const { cluster, volume, old, nvme_nqn, next, generations } = await moved(node);
    const attachments = [undefined, old, `${nvme_nqn}2`];
    for (const nqn of attachments) {
      cluster.attach(volume, nqn);
      await assertRejects(() => stage(node.parts, next), FailedPrecondition, old);
    }
    cluster.failure = new Unreachable("away");
    await assertRejects(() => stage(node.parts, next), Unreachable, "away");
    cluster.failure = undefined;
    const { cluster: _, ...alone } = node.parts;
    await assertRejects(() => stage({ ...alone, cluster: undefined }, next), FailedPrecondition, old);
    assertEquals([await generations(), await node.mountsAt(volume.stagingPath)], [[0], 1]);
    cluster.attach(volume, nvme_nqn);
    await stage(node.parts, next);
    assertEquals([await generations(), await node.mountsAt(volume.stagingPath)], [[1], 1]);
    assertEquals((await node.parts.records.read(volume.volumeId))?.nqn, nvme_nqn);
  },
);

onNode("stage() leaves a live session of another generation to those who use it", async (node) => {
  const { cluster, volume, old, nvme_nqn, next, generations } = await moved(node);
  const target = node.path("pod");
  await publish(node.parts, node.at(volume, "pod"));
  cluster.attach(volume, nvme_nqn);
  await assertRejects(() => stage(node.parts, next), FailedPrecondition, target);
  await assertRejects(() => stage(node.parts, next), FailedPrecondition, old);
  assertEquals([await generations(), await node.mountsAt(target)], [[0], 1]);
});

onNode(
  "stage() lets a dead session of another generation go when the attachment names the new one, and waits otherwise",
  async (node) => {
    const { cluster, volume, old, nvme_nqn, next, generations } = await moved(node);
    await node.setState(volume, "connecting");
    cluster.attach(volume, old);
    await assertRejects(() => stage(node.parts, next), Unreachable, "not live");
    assertEquals(await generations(), [0]);
    cluster.attach(volume, nvme_nqn);
    await stage(node.parts, next);
    assertEquals([await generations(), await node.mountsAt(volume.stagingPath)], [[1], 1]);
    assertEquals(cluster.told.map(({ reason }) => reason), ["SessionLetGo"]);
  },
);

Deno.test({
  name: "stage() connects a volume anew that has grown unseen, when nobody uses it, and only then",
  ignore,
  async fn() {
    await using node = await TestNode.start({ command: 2000, connect: 3000 });
    const volume = await node.volume("block");
    const input = await node.up(volume, "disk");
    await node.server.offer(node.nqn(volume), 2 * GiB, { seen: GiB }); // Connected nodes do not see it.
    const grown = changed(volume, { size_bytes: String(2 * GiB) });
    await assertRejects(() => stage(node.parts, grown), Unreachable, "does not show the growth");
    await unpublish(node.parts, input);
    await stage(node.parts, grown);
    assertEquals((await node.parts.sessions.device(node.nqn(volume))).size, 2 * GiB);
    await node.setState(volume, "connecting");
    await assertRejects(() => stage(node.parts, changed(volume, { size_bytes: String(3 * GiB) })), Unreachable);
    assertEquals(await node.sessions(volume), 1);
    await node.setState(volume, "live");
  },
});

onNode("stage() takes back that the volume is being unstaged, and notes what mounting it anew needs", async (node) => {
  const volume = await node.volume("ext4");
  await stage(node.parts, { ...volume, publishContext: { ...volume.publishContext, pv_name: "pv-1" } });
  const record = await node.parts.records.read(volume.volumeId);
  assert(record);
  assertEquals([record.mount, record.size, record.pv], [{ fsType: "ext4", options: [] }, GiB, "pv-1"]);
  await node.parts.records.write({ ...record, unstaging: true, readOnlyTarget: "/begun" });
  await stage(node.parts, volume);
  assertEquals(await node.parts.records.read(volume.volumeId), { ...record, readOnlyTarget: "/begun" });
});

onNode(
  "stage() refuses an xfs that is broken with the remedy, and writes nothing to it, not even to its log",
  async (node) => {
    const volume = await node.volume("xfs", 320 * 2 ** 20);
    const file = node.server.file(node.nqn(volume));
    await run("mkfs.xfs", "-q", file);
    await run("dd", "if=/dev/urandom", `of=${file}`, "bs=512", "seek=1", "count=3", "conv=notrunc"); // AGF, AGI, AGFL
    const before = await run("sha256sum", file);
    await assertRejects(() => stage(node.parts, volume), FailedPrecondition, "xfs_repair -n");
    assertEquals([await run("sha256sum", file), await node.mountsAt(volume.stagingPath)], [before, 0]);
  },
);

onNode("stage() takes the trial mount of an xfs away that a crash has left", async (node) => {
  const volume = await node.volume("xfs");
  await stage(node.parts, volume);
  await unstage(node.parts, volume);
  node.commands.instead = (program) => program === "umount" ? { code: 1, stdout: "", stderr: "killed" } : undefined;
  await assertRejects(() => stage(node.parts, volume), FailedPrecondition, "killed");
  node.commands.instead = () => undefined;
  assert((await node.parts.mounts.at(volume.stagingPath))?.superOptions.includes("norecovery"));
  node.restart();
  await stage(node.parts, volume);
  await Deno.writeTextFile(`${volume.stagingPath}/file`, "written");
  assertEquals(await node.mountsAt(volume.stagingPath), 1);
});

onNode(
  "stage() makes no filesystem of a volume that is published as a block device, nor the other way round",
  async (node) => {
    const block = await node.volume("block");
    await node.up(block, "disk");
    const { capability } = await node.volume("ext4");
    await assertRejects(() => stage(node.parts, { ...block, capability }), FailedPrecondition, node.path("disk"));
    assertEquals([made(node), await node.sessions(block)], [0, 1]);
    const mounted = await node.volume("ext4");
    await node.up(mounted, "target");
    const asBlock = { ...mounted, capability: { kind: "block" as const } };
    await assertRejects(() => stage(node.parts, asBlock), FailedPrecondition, node.path("target"));
    await assertRejects(() => publish(node.parts, node.at(asBlock, "disk-2")), FailedPrecondition, "as filesystem");
  },
);

onNode("stage() replaces a record that cannot be used only for a filesystem that nobody uses", async (node) => {
  const volume = await node.volume("ext4");
  const block = await node.volume("block");
  await node.up(volume, "target");
  await stage(node.parts, block);
  const spoil = (id: string) => Deno.writeTextFile(`${node.standIn.folder}/records/${id}.json`, "{");
  for (const each of [volume, block]) {
    await spoil(each.volumeId);
    await assertRejects(() => stage(node.parts, each), FailedPrecondition, "staging record");
  }
  await run("umount", node.path("target"));
  const { majorMinor } = await node.parts.sessions.device(node.nqn(volume));
  const folder = `${node.kubeletFolder}/plugins/kubernetes.io/csi/volumeDevices/publish/pv`;
  await Deno.mkdir(folder, { recursive: true });
  await run("mknod", `${folder}/of-a-pod`, "b", ...majorMinor.split(":"));
  await assertRejects(() => stage(node.parts, volume), FailedPrecondition, "staging record");
  await Deno.remove(`${folder}/of-a-pod`);
  await stage(node.parts, volume);
  assertEquals((await node.parts.records.read(volume.volumeId))?.kind, "filesystem");
});

onNode("stage() formats and mounts nothing through a device node that has become another device's", async (node) => {
  for (const last of ["cmp", "e2fsck"]) {
    const volume = await node.volume("ext4");
    if (last === "e2fsck") await run("mkfs.ext4", "-q", node.server.file(node.nqn(volume)));
    node.commands.started.length = 0;
    node.commands.instead = async (program) => {
      if (program !== last) return undefined as never;
      const { path } = await node.parts.sessions.device(node.nqn(volume));
      await Deno.remove(path);
      await run("mknod", path, "b", "7", "1023");
      return { code: 0, stdout: "", stderr: "" };
    };
    await assertRejects(() => stage(node.parts, volume), Unreachable, "changed while it was looked at");
    assertEquals(node.commands.started.filter((line) => /^(mkfs|mount)/.test(line)), []);
  }
});

onNode(
  "stage() lets no mount option make a volume for readers writable, and says when it is mounted otherwise",
  async (node) => {
    const volume = await node.volume("ext4");
    const capability = { kind: "filesystem" as const, fsType: "ext4", mountOptions: ["ro", "rw"] };
    await stage(node.parts, { ...volume, capability, readOnly: true });
    assert((await node.parts.mounts.at(volume.stagingPath))?.options.includes("ro"));
    await assertRejects(() => stage(node.parts, { ...volume, capability }), AlreadyExists, "mounted read-only");
    await unstage(node.parts, volume);
    await stage(node.parts, { ...volume, capability }); // The last option counts.
    assert((await node.parts.mounts.at(volume.stagingPath))?.options.includes("rw"));
  },
);
