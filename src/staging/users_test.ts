import { assert, assertEquals, assertRejects } from "@std/assert";
import type { TestNode } from "../../tests/nvme/node.ts";
import { onNode } from "../../tests/nvme/on_node.ts";
import { run } from "../../tests/nvme/stand_in.ts";
import { MountTable } from "../mounts/mountinfo.ts";
import { Mounts } from "../mounts/mount.ts";
import { Cancelled, InUse, Unreachable } from "../runtime/errors.ts";
import { podOf } from "./kubelet_pods.ts";
import { publish, unpublish } from "./publish.ts";
import { stage } from "./stage.ts";
import { unstage } from "./unstage.ts";
import { described, usersOf } from "./users.ts";
import { tracesOf } from "./uses.ts";
import type { VolumeInput } from "./volume.ts";

const pod = "8a2f3c1e-5b6d-4e7f-8a9b-0c1d2e3f4a5b";
const otherPod = "11111111-2222-4333-8444-555555555555";

async function bind(source: string, target: string): Promise<string> {
  await Deno.mkdir(target, { recursive: true });
  await run("mount", "--bind", source, target);
  return target;
}

async function usersNow(node: TestNode, volume: VolumeInput): Promise<string[]> {
  const traces = await tracesOf(node.parts, volume.volumeId);
  return (await usersOf(node.parts, traces, { stagingPath: volume.stagingPath })).map(described);
}

/** The number of a volume's device. */
async function numberOf(node: TestNode, volume: VolumeInput): Promise<string> {
  return (await node.parts.sessions.device(node.nqn(volume))).majorMinor;
}

async function makeNode(path: string, majorMinor: string): Promise<void> {
  await Deno.mkdir(path.slice(0, path.lastIndexOf("/")), { recursive: true });
  await run("mknod", path, "b", ...majorMinor.split(":"));
}

/** What sysfs would say of a loop device over a path. */
async function loopOver(node: TestNode, path: string): Promise<void> {
  const folder = `${node.standIn.roots.sysfs}/block/loop7/loop`;
  await Deno.mkdir(folder, { recursive: true });
  await Deno.writeTextFile(`${folder}/backing_file`, `${path}\n`);
}

onNode(
  "unstage() takes away what gone pods left behind, folders of the volume included, and its data stay",
  async (node) => {
    await Deno.mkdir(node.path("elsewhere"));
    await Deno.symlink("elsewhere", node.kubeletFolder); // mountinfo has the path that it leads to.
    const cluster = await node.inKubernetes();
    cluster.pods.add(otherPod);
    const volume = await node.volume("ext4");
    await stage(node.parts, volume);
    const target = await node.podPath(pod);
    await publish(node.parts, { ...volume, targetPath: target, exclusive: false });
    await Deno.mkdir(`${target}/folder`);
    await Deno.writeTextFile(`${target}/folder/file`, "precious");
    await bind(`${target}/folder`, `${node.kubeletFolder}/pods/${pod}/volume-subpaths/pv/container/0`);
    await bind(`${target}/folder`, `${target}/folder`); // One in another.
    await unstage(node.parts, volume);
    const mounts = (await node.parts.mounts.all()).filter((mount) => mount.target.includes(pod));
    assertEquals([mounts, await node.sessions(volume), await node.parts.records.volumeIds()], [[], 0, []]);
    await stage(node.parts, volume);
    assertEquals(await Deno.readTextFile(`${volume.stagingPath}/folder/file`), "precious");
  },
);

onNode(
  "unstage() leaves a mount alone that is not known to be a gone pod's, and then everything else too",
  async (node) => {
    const cluster = await node.inKubernetes();
    const volume = await node.volume("ext4");
    await stage(node.parts, volume);
    const orphan = await bind(volume.stagingPath, await node.podPath(otherPod));
    const places = [
      `${node.kubeletFolder}/pods/static-pod/volumes/x`,
      `${node.kubeletFolder}/pods/${"a".repeat(32)}/volumes/x`, // A static pod's folder: Kubernetes has it under another UID.
      `${node.kubeletFolder}/plugins/${pod}/x`,
      `${node.kubeletFolder}2/pods/${pod}/x`,
      node.path("mnt"),
    ];
    for (const place of places) {
      await bind(volume.stagingPath, place);
      await assertRejects(() => unstage(node.parts, volume), InUse, `a mount at ${place}`);
      await run("umount", place);
    }
    const target = await bind(volume.stagingPath, await node.podPath(pod));
    cluster.pods.add(pod);
    await assertRejects(() => unstage(node.parts, volume), InUse, target);
    cluster.failure = new Unreachable("no API");
    await assertRejects(() => unstage(node.parts, volume), InUse, target);
    cluster.failure = undefined;
    node.parts = { ...node.parts, cluster: undefined };
    await assertRejects(() => unstage(node.parts, volume), InUse, target);
    assertEquals(await Promise.all([orphan, target, volume.stagingPath].map((path) => node.mountsAt(path))), [1, 1, 1]);
    assertEquals((await node.parts.records.read(volume.volumeId))?.unstaging, undefined);
  },
);

onNode("usersOf() sees a mount that this process alone has", async (node) => {
  const volume = await node.volume("ext4");
  const { targetPath } = await node.up(volume, "target");
  const table = await Deno.readTextFile("/proc/self/mountinfo");
  for (const process of ["1", "self"]) await Deno.mkdir(node.path(`fake/${process}`), { recursive: true });
  await Deno.writeTextFile(node.path("fake/self/mountinfo"), table);
  const host = table.split("\n").filter((line) => !line.includes(` ${targetPath} `));
  await Deno.writeTextFile(node.path("fake/1/mountinfo"), host.join("\n"));
  const seen = new MountTable({ procRoot: node.path("fake"), limit: 10_000 });
  const { commands } = node;
  node.parts = { ...node.parts, mounts: new Mounts({ commands, table: seen, deadline: 10_000 }) };
  assertEquals(await usersNow(node, volume), [`a mount at ${volume.stagingPath}`, `a mount at ${targetPath}`]);
  await Deno.remove(node.path("fake/self/mountinfo"));
  await assertRejects(() => usersNow(node, volume), Unreachable, "fake/self/mountinfo");
});

onNode(
  "unstage() refuses while the kubelet has a device node of the volume, though no record tells of it",
  async (node) => {
    await node.inKubernetes();
    const [volume, other] = [await node.volume("block"), await node.volume("block")];
    for (const each of [volume, other]) await stage(node.parts, each);
    const places = [
      `pods/${pod}/volumeDevices/kubernetes.io~csi/pv`,
      `plugins/kubernetes.io/csi/volumeDevices/publish/pv/${pod}`,
      `plugins/kubernetes.io/csi/volumeDevices/pv/dev/${pod}`,
    ];
    await node.parts.records.remove(volume.volumeId);
    for (const place of places) {
      const path = `${node.kubeletFolder}/${place}`;
      await makeNode(path, await numberOf(node, other));
      assertEquals(await usersNow(node, volume), []);
      await Deno.remove(path);
      await makeNode(path, await numberOf(node, volume));
      await assertRejects(() => unstage(node.parts, volume), InUse, `a device node at ${path}`);
      assertEquals(await node.sessions(volume), 1);
      await Deno.remove(path);
    }
    // What a pod has as a link is looked at where it leads to.
    await Deno.symlink(node.standIn.roots.dev, `${node.kubeletFolder}/pods/${pod}/volumeDevices/link`);
    await unstage(node.parts, volume);
    assertEquals(await node.sessions(volume), 0);
  },
);

onNode(
  "unstage() refuses while a loop device pins the volume, as the kubelet's does, also over a node that is gone",
  async (node) => {
    await node.inKubernetes();
    const volume = await node.volume("block");
    const published = { ...volume, publishContext: { ...volume.publishContext, pv_name: "pv-a" } };
    await stage(node.parts, published);
    const path = (pv: string) => `${node.kubeletFolder}/plugins/kubernetes.io/csi/volumeDevices/${pv}/dev/${pod}`;
    await makeNode(node.path("a-node"), await numberOf(node, volume));
    await Deno.writeTextFile(node.path("image"), "");
    const users = async (backing: string) => {
      await loopOver(node, backing);
      return (await usersNow(node, volume)).length;
    };
    for (const backing of ["/dev/nvme0n1", `${node.standIn.roots.dev}/nvme0n1`, node.path("a-node")]) {
      assertEquals(await users(backing), 1, backing);
    }
    for (const backing of [path("pv-a"), `${path("pv-a")} (deleted)`]) assertEquals(await users(backing), 1, backing);
    for (
      const backing of [
        `${path("pv-b")} (deleted)`,
        node.path("image"),
        `${node.path("image")} (deleted)`,
        "/var/lib/snapd/snaps/x.snap",
        "/dev/nvme0n10",
      ]
    ) assertEquals(await users(backing), 0, backing);
    await Deno.mkdir(node.path("real"));
    await Deno.symlink("real", node.path("link"));
    const noted = node.at(published, "link/target");
    await publish(node.parts, noted);
    await Deno.remove(noted.targetPath);
    assertEquals(await users(`${node.path("real/target")} (deleted)`), 1);
    await loopOver(node, `${path("pv-a")} (deleted)`);
    await assertRejects(() => unstage(node.parts, volume), InUse, "loop7, built on");
    assertEquals(await node.sessions(volume), 1);
    // Whose it was is not known without the PV's name.
    await node.parts.records.remove(volume.volumeId);
    assertEquals(await users(`${path("pv-b")} (deleted)`), 1);
  },
);

onNode("usersOf() does not call free what it cannot look at", async (node) => {
  await node.inKubernetes();
  const volume = await node.volume("block");
  await stage(node.parts, volume);
  const loop = `${node.standIn.roots.sysfs}/block/loop7/loop`;
  await Deno.mkdir(loop, { recursive: true });
  await run("mkfifo", `${loop}/backing_file`); // Opening it waits for a writer.
  node.restart({ mountinfo: 500 });
  await assertRejects(() => usersNow(node, volume), Error, "no answer within");
  node.restart();
  await Deno.writeTextFile(`${loop}/backing_file`, "");
  await Deno.remove(`${loop}/backing_file`);
  await Deno.mkdir(`${loop}/backing_file`);
  await assertRejects(() => usersNow(node, volume), Error, "directory");
});

onNode(
  "unstage() refuses what is held in a mount namespace that nobody sees: unmounted, connected, to be staged again",
  async (node) => {
    const volume = await node.volume("ext4");
    await stage(node.parts, volume);
    const args = ["--mount", "--propagation", "private", "sh", "-c", "echo ready; exec sleep 600"];
    await using hidden = new Deno.Command("unshare", { args, stdout: "piped" }).spawn();
    const reader = hidden.stdout.getReader();
    await reader.read();
    for (let again = 0; again < 2; again++) {
      await assertRejects(() => unstage(node.parts, volume), InUse, "apparently in use by the system");
      assertEquals([await node.mountsAt(volume.stagingPath), await node.sessions(volume)], [0, 1]);
    }
    await stage(node.parts, volume);
    assertEquals(await node.mountsAt(volume.stagingPath), 1);
    hidden.kill("SIGKILL");
    await hidden.status;
    await reader.cancel();
    await unstage(node.parts, volume);
    assertEquals(await node.sessions(volume), 0);
  },
);

onNode("unstage() disconnects nothing when it cannot be looked whether the device is held", async (node) => {
  const volume = await node.volume("block");
  await stage(node.parts, volume);
  node.commands.instead = (program) =>
    program === "mke2fs" ? { code: 1, stdout: "", stderr: "mke2fs: Input/output error" } : undefined;
  await assertRejects(() => unstage(node.parts, volume), InUse, "Input/output error");
  node.commands.instead = () => undefined;
  const { path } = await node.parts.sessions.device(node.nqn(volume));
  await Deno.rename(path, `${path}-away`);
  await assertRejects(() => unstage(node.parts, volume), InUse, "is not its device node");
  assertEquals(await node.sessions(volume), 1);
  await Deno.rename(`${path}-away`, path);
  await unstage(node.parts, volume);
});

onNode("unstage() disconnects nothing from under whoever came while it was unmounted", async (node) => {
  const volume = await node.volume("ext4");
  await stage(node.parts, volume);
  const holder = `${node.standIn.roots.sysfs}/class/block/nvme0n1/holders/dm-0`;
  node.commands.instead = (program, args) =>
    program !== "umount" ? undefined : run(program, ...args).then(async (stdout) => {
      await Deno.mkdir(holder);
      return { code: 0, stdout, stderr: "" };
    });
  await assertRejects(() => unstage(node.parts, volume), InUse, "dm-0, built on nvme0n1");
  assertEquals(await node.sessions(volume), 1);
  await Deno.remove(holder);
  await unstage(node.parts, volume);
});

onNode("unstage() touches no device whose session died while it was unmounted", async (node) => {
  const volume = await node.volume("ext4");
  await stage(node.parts, volume);
  node.commands.instead = (program) => {
    if (program !== "umount") return undefined;
    return node.setState(volume, "connecting").then(() => run("umount", volume.stagingPath))
      .then((stdout) => ({ code: 0, stdout, stderr: "" }));
  };
  await assertRejects(() => unstage(node.parts, volume), Unreachable, "is not live");
  assert(!node.commands.started.some((line) => line.startsWith("mke2fs")));
  assertEquals(await node.sessions(volume), 1);
});

onNode("unstage() for a caller that goes away stops before its next step and disconnects nothing", async (node) => {
  const volume = await node.volume("ext4");
  await stage(node.parts, volume);
  for (const last of ["umount", "mke2fs"]) {
    const caller = new AbortController();
    node.commands.instead = (program, args) => {
      if (program !== last) return undefined;
      return run(program, ...args).then((stdout) => {
        caller.abort();
        return { code: 0, stdout, stderr: "" };
      });
    };
    await assertRejects(() => unstage(node.parts, volume, { signal: caller.signal }), Cancelled);
    assertEquals([await node.mountsAt(volume.stagingPath), await node.sessions(volume)], [0, 1], last);
  }
  assert(!node.commands.started.some((line) => line.startsWith("nvme disconnect")));
});

onNode(
  "unstage() that is killed at any step is finished by the next, and the record says meanwhile that it had begun",
  async (node) => {
    const volume = await node.volume("ext4");
    await stage(node.parts, volume);
    for (const killed of ["umount", "mke2fs", "nvme"]) {
      node.commands.instead = (program) => program === killed ? Promise.reject(new Error("killed")) : undefined;
      const why = await unstage(node.parts, volume).catch((error) => String(error));
      assert(why?.includes("killed"), `${killed}: ${why}`);
      assertEquals((await node.parts.records.read(volume.volumeId))?.unstaging, true, killed);
      node.restart();
    }
    node.commands.instead = () => undefined;
    await unstage(node.parts, volume);
    assertEquals([await node.sessions(volume), await node.parts.records.volumeIds()], [0, []]);
  },
);

onNode("unstage() keeps the note of a mkfs that was cut off, and no note that it is being unstaged", async (node) => {
  const volume = await node.volume("ext4");
  await stage(node.parts, volume);
  await run("umount", volume.stagingPath);
  const record = await node.parts.records.read(volume.volumeId);
  assert(record);
  await node.parts.records.write({ ...record, mkfs: "ext4" });
  await unstage(node.parts, volume);
  const { mkfs, mkfsLeft, unstaging } = await node.parts.records.read(volume.volumeId) ?? {};
  assertEquals([mkfs, mkfsLeft, unstaging], ["ext4", true, undefined]);
});

Deno.test("podOf() knows the paths that the kubelet makes for pods, and no others", () => {
  const pods = [
    `pods/${pod}/volumes/kubernetes.io~csi/pv/mount`,
    `pods/${pod}/volume-subpaths/pv/container/0`,
    `plugins/kubernetes.io/csi/volumeDevices/publish/pv/${pod}`,
    `plugins/kubernetes.io/csi/volumeDevices/pv/dev/${pod}`,
  ];
  for (const path of pods) assertEquals(podOf("/var/lib/kubelet", `/var/lib/kubelet/${path}`), pod, path);
  const others = [
    `/var/lib/kubelet/pods/${pod}`,
    `/var/lib/kubelet/pods/${pod}x/volumes`,
    `/var/lib/kubelet/pods/x${pod}/volumes`,
    `/var/lib/kubelet/plugins/kubernetes.io/csi/rds.csi.srvlab.io/${pod}/globalmount`,
    `/var/lib/kubelet2/pods/${pod}/volumes/x`,
    `/mnt/var/lib/kubelet/pods/${pod}/volumes/x`,
  ];
  for (const path of others) assertEquals(podOf("/var/lib/kubelet", path), undefined, path);
});

onNode("unstage() of a block volume ends once its kubelet has unpublished it", async (node) => {
  await node.inKubernetes();
  const volume = await node.volume("block");
  await stage(node.parts, volume);
  const targetPath = `${node.kubeletFolder}/plugins/kubernetes.io/csi/volumeDevices/publish/pv/${pod}`;
  await Deno.mkdir(targetPath.slice(0, targetPath.lastIndexOf("/")), { recursive: true });
  await publish(node.parts, { ...volume, targetPath, exclusive: false });
  // The pod may be gone from Kubernetes while its program still runs: its node says that somebody may write.
  await assertRejects(() => unstage(node.parts, volume), InUse, targetPath);
  await unpublish(node.parts, { ...volume, targetPath });
  await unstage(node.parts, volume);
  assertEquals(await node.sessions(volume), 0);
});
