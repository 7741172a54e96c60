import { assert, assertEquals, assertRejects } from "@std/assert";
import { RecordingCommands, run, type StandIn, standIn, whyNoStandIn } from "../../tests/nvme/stand_in.ts";
import { Stuck } from "../runtime/command.ts";
import { AlreadyExists, FailedPrecondition, InUse } from "../runtime/errors.ts";
import { deviceNodeAt, ensureDeviceNode, removeDeviceNode } from "./device_node.ts";
import { type Mount, MountTable } from "./mountinfo.ts";
import { Mounts, removeEmptyFolder } from "./mount.ts";

const ignore = await whyNoStandIn() !== undefined;

class Host implements AsyncDisposable {
  readonly commands = new RecordingCommands();
  readonly mounts: Mounts;
  private constructor(readonly standIn: StandIn) {
    const table = new MountTable({ procRoot: standIn.roots.proc, limit: 10_000 });
    this.mounts = new Mounts({ commands: this.commands, table, deadline: 20_000 });
  }

  static async start(): Promise<Host> {
    return new Host(await standIn());
  }

  async folder(name: string): Promise<string> {
    await Deno.mkdir(`${this.standIn.folder}/${name}`);
    return `${this.standIn.folder}/${name}`;
  }

  /** A filesystem of its own without a device: a tmpfs mount. */
  async filesystem(name: string): Promise<Mount> {
    const folder = await this.folder(name);
    await run("mount", "-t", "tmpfs", name, folder);
    const mount = await this.mounts.at(folder);
    assert(mount);
    return mount;
  }

  async count(target: string): Promise<number> {
    return (await this.mounts.all()).filter((mount) => mount.target === target).length;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.standIn[Symbol.asyncDispose]();
  }
}

Deno.test({
  name: "Mounts.bind() shows a filesystem once, however often it is asked",
  ignore,
  async fn() {
    await using host = await Host.start();
    const source = await host.filesystem("source");
    const target = await host.folder("target");
    for (let i = 0; i < 3; i++) await host.mounts.bind(source, target, { readOnly: false });
    assertEquals(await host.count(target), 1);
    await Deno.writeTextFile(`${target}/file`, "x");
    assertEquals(await Deno.readTextFile(`${source.target}/file`), "x");
  },
});

Deno.test({
  name: "Mounts.bind() makes a read-only mount, also of one that a crash left writable",
  ignore,
  async fn() {
    await using host = await Host.start();
    const source = await host.filesystem("source");
    const target = await host.folder("target");
    await run("mount", "--bind", source.target, target); // As far as the driver had come.
    await assertRejects(
      () => host.mounts.bind(source, target, { readOnly: true }),
      AlreadyExists,
      "is mounted writable",
    );
    await host.mounts.bind(source, target, { readOnly: true, begun: true });
    await host.mounts.bind(source, target, { readOnly: true });
    assert((await host.mounts.at(target))?.options.includes("ro"));
    assertEquals(await host.count(target), 1);
    await assertRejects(() => Deno.writeTextFile(`${target}/file`, "x"));
    await Deno.writeTextFile(`${source.target}/file`, "x");
    await assertRejects(() => host.mounts.bind(source, target, { readOnly: false }), AlreadyExists, "unpublish");
  },
});

Deno.test({
  name: "Mounts.bind() refuses a target where another device is mounted",
  ignore,
  async fn() {
    await using host = await Host.start();
    const source = await host.filesystem("source");
    const other = await host.filesystem("other");
    await assertRejects(
      () => host.mounts.bind(source, other.target, { readOnly: false }),
      AlreadyExists,
      "another device",
    );
    assertEquals((await host.mounts.at(other.target))?.majorMinor, other.majorMinor);
  },
});

Deno.test({
  name: "Mounts.bind() and Mounts.mount() make the hundredth mount of a device, and not the next",
  ignore,
  async fn() {
    await using host = await Host.start();
    const source = await host.filesystem("source");
    const target = await host.folder("target");
    const procRoot = await host.folder("fake");
    await Deno.mkdir(`${procRoot}/1`);
    const mounts = new Mounts({
      commands: host.commands,
      table: new MountTable({ procRoot, limit: 10_000 }),
      deadline: 20_000,
    });
    const line = (n: number) => `1 1 ${source.majorMinor} /folder-${n} /t${n} rw - tmpfs x rw\n`; // Bind mounts count.
    const device = { path: "/dev/null", majorMinor: source.majorMinor };
    const attempts = [
      () => mounts.bind(source, target, { readOnly: false }),
      () => mounts.mount(device, target, { fsType: "ext4", mountOptions: [] }),
    ];
    host.commands.instead = () => ({ code: 0, stdout: "", stderr: "" });
    for (const attempt of attempts) {
      for (const count of [99, 100]) {
        await Deno.writeTextFile(`${procRoot}/1/mountinfo`, Array.from({ length: count }, (_, n) => line(n)).join(""));
        host.commands.started.length = 0;
        const [why, begun] = count < 100 ? ["are not what was just made", 1] : ["has 100 mounts", 0];
        await assertRejects(attempt, FailedPrecondition, why);
        assertEquals(host.commands.started.filter((each) => each.startsWith("mount ")).length, begun);
      }
    }
    await Deno.writeTextFile(`${procRoot}/1/mountinfo`, line(1));
    const stuck = new Stuck("'umount' hangs", Promise.resolve());
    host.commands.instead = (program) =>
      program === "umount" ? Promise.reject(stuck) : { code: 0, stdout: "", stderr: "" };
    for (const attempt of attempts) await assertRejects(attempt, Stuck, "hangs", "the volume must stay guarded");
  },
});

Deno.test({
  name: "Mounts.bind() and Mounts.mount() refuse a target that is a link, a file or not there",
  ignore,
  async fn() {
    await using host = await Host.start();
    const source = await host.filesystem("source");
    const elsewhere = await host.folder("elsewhere");
    const paths = { link: "is a symbolic link", file: "is no folder", absent: "does not exist" };
    await Deno.symlink(elsewhere, `${host.standIn.folder}/link`);
    await Deno.writeTextFile(`${host.standIn.folder}/file`, "");
    for (const [name, why] of Object.entries(paths)) {
      const target = `${host.standIn.folder}/${name}`;
      await assertRejects(() => host.mounts.bind(source, target, { readOnly: false }), FailedPrecondition, why);
      const device = { path: "/nonexistent", majorMinor: "259:77" };
      const options = { fsType: "ext4", mountOptions: [] };
      await assertRejects(() => host.mounts.mount(device, target, options), FailedPrecondition, why);
      await assertRejects(() => host.mounts.requirePlace(target), FailedPrecondition, why);
    }
    assertEquals([host.commands.started, await host.count(elsewhere)], [[], 0]);
  },
});

Deno.test({
  name: "Mounts undoes a mount of its own that is not what it should be",
  ignore,
  async fn() {
    await using host = await Host.start();
    const [source, other] = [await host.filesystem("source"), await host.filesystem("other")];
    const target = await host.folder("target");
    // Another device comes between the look and the mount.
    const wrong = { ...source, target: other.target };
    await assertRejects(
      () => host.mounts.bind(wrong, target, { readOnly: false }),
      FailedPrecondition,
      "Bidirectional",
    );
    assertEquals([await host.count(target), await host.count(other.target)], [0, 1]);
  },
});

Deno.test({
  name: "Mounts.unmount() takes away all mounts of ours at a path, and is a no-op where there is none",
  ignore,
  async fn() {
    await using host = await Host.start();
    const source = await host.filesystem("source");
    const target = await host.folder("a target\twith blanks");
    for (let i = 0; i < 2; i++) await run("mount", "--bind", source.target, target); // As an older driver stacked them.
    const isOurs = (mount: Mount) => mount.majorMinor === source.majorMinor;
    await host.mounts.unmount(`${target}/`, isOurs);
    await host.mounts.unmount(target, isOurs);
    await host.mounts.unmount(`${target}/absent/absent`, isOurs);
    assertEquals([await host.count(target), await host.count(source.target)], [0, 1]);
  },
});

Deno.test({
  name: "Mounts.unmount() leaves alone what is not ours, and says who keeps it busy",
  ignore,
  async fn() {
    await using host = await Host.start();
    const { target } = await host.filesystem("other");
    await assertRejects(() => host.mounts.unmount(target, () => false), FailedPrecondition, "left alone");
    {
      using _open = await Deno.open(`${target}/file`, { write: true, create: true });
      await assertRejects(() => host.mounts.unmount(target, () => true), InUse, "fuser");
    }
    assertEquals(await host.count(target), 1);
  },
});

Deno.test({
  name: "Mounts does not go on unmounting where the host does not see it",
  ignore,
  async fn() {
    await using host = await Host.start();
    const { target } = await host.filesystem("other");
    host.commands.instead = () => ({ code: 0, stdout: "", stderr: "" });
    await assertRejects(() => host.mounts.unmount(target, () => true), FailedPrecondition, "Bidirectional");
    assertEquals(host.commands.started.length, 1);
  },
});

Deno.test({
  name: "removeEmptyFolder() removes no folder that has anything in it",
  ignore,
  async fn() {
    await using host = await Host.start();
    const folder = await host.folder("target");
    await Deno.writeTextFile(`${folder}/data`, "precious");
    await assertRejects(() => removeEmptyFolder(folder), FailedPrecondition, "nothing but empty folders");
    assertEquals(await Deno.readTextFile(`${folder}/data`), "precious");
    await Deno.remove(`${folder}/data`);
    await removeEmptyFolder(folder);
    await removeEmptyFolder(folder);
  },
});

/** A loop device, with a file of 1 MiB behind it. */
async function loop(host: Host): Promise<{ path: string; majorMinor: string; detach: () => Promise<unknown> }> {
  const file = `${host.standIn.folder}/loop.img`;
  await run("truncate", "-s", "1M", file);
  const path = (await run("losetup", "--find", "--show", file)).trim();
  const majorMinor = await deviceNodeAt(path);
  assert(majorMinor);
  return { path, majorMinor, detach: () => run("losetup", "--detach", path) };
}

Deno.test({
  name: "ensureDeviceNode() makes a node that works, takes it when it is there, and refuses another device's",
  ignore,
  async fn() {
    await using host = await Host.start();
    const device = await loop(host);
    try {
      const target = `${host.standIn.folder}/node`;
      const options = { commands: host.commands, deadline: 10_000, mounts: await host.mounts.all() };
      await ensureDeviceNode(target, device.majorMinor, options);
      await ensureDeviceNode(target, device.majorMinor, options);
      assertEquals(host.commands.started.length, 1);
      assertEquals(await deviceNodeAt(target), device.majorMinor);
      await assertRejects(() => ensureDeviceNode(target, "259:77", options), AlreadyExists, device.majorMinor);
      assertEquals(await deviceNodeAt(target), device.majorMinor);
      const file = `${host.standIn.folder}/file`;
      await Deno.writeTextFile(file, "precious");
      await assertRejects(() => ensureDeviceNode(file, device.majorMinor, options), AlreadyExists, "no device node");
      await assertRejects(() => removeDeviceNode(file, device.majorMinor), FailedPrecondition, "left alone");
      await assertRejects(() => removeDeviceNode(target, "259:77"), FailedPrecondition, "left alone");
      await removeDeviceNode(target, device.majorMinor);
      await removeDeviceNode(target, device.majorMinor);
      assertEquals(await deviceNodeAt(target), undefined);
    } finally {
      await device.detach();
    }
  },
});

Deno.test({
  name: "ensureDeviceNode() names nodev when that is why a node cannot be opened",
  ignore,
  async fn() {
    await using host = await Host.start();
    const device = await loop(host);
    try {
      const folder = await host.folder("kubelet");
      await run("mount", "-t", "tmpfs", "-o", "nodev", "x", folder);
      const options = { commands: host.commands, deadline: 10_000, mounts: await host.mounts.all() };
      await assertRejects(
        () => ensureDeviceNode(`${folder}/node`, device.majorMinor, options),
        FailedPrecondition,
        `${folder} is mounted with 'nodev'`,
      );
      await assertRejects(
        () => ensureDeviceNode(`${host.standIn.folder}/dead`, "259:1048575", options),
        FailedPrecondition,
        "cannot be opened",
      );
    } finally {
      await device.detach();
    }
  },
});
