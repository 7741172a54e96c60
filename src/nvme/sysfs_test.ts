import { assert, assertEquals, assertRejects } from "@std/assert";
import { poll } from "../runtime/deadline.ts";
import { Cancelled, FailedPrecondition, Unreachable } from "../runtime/errors.ts";
import { Sysfs } from "./sysfs.ts";

const prefix = "nqn.2000-02.com.mikrotik:pvc-";
const body = "0123456789abcdef0123456789ab";
const nqn = prefix + body;

interface Fixture {
  nqn: string;
  /** Number of the subsystem, which is that of its block device. */
  subsystem: number;
  /** Numbers and states of its controllers. */
  controllers: Record<number, string>;
  multipath?: boolean;
  size?: number;
  minor?: number;
}

async function put(folder: string, attributes: Record<string, string | number>): Promise<void> {
  await Deno.mkdir(folder, { recursive: true });
  for (const [name, value] of Object.entries(attributes)) await Deno.writeTextFile(`${folder}/${name}`, `${value}\n`);
}

/** A tree of the kernel's shape (6.1): real folders under devices/virtual, symlinks in the classes. */
async function tree(...fixtures: Fixture[]): Promise<string> {
  const root = await Deno.makeTempDir();
  for (const name of ["nvme", "nvme-subsystem"]) await Deno.mkdir(`${root}/class/${name}`, { recursive: true });
  for (const { nqn, subsystem: s, controllers, multipath = true, size = 2048, minor = 3 } of fixtures) {
    const folder = `${root}/devices/virtual/nvme-subsystem/nvme-subsys${s}`;
    const device = { nsid: 1, size, dev: `259:${minor}` };
    await put(folder, { subsysnqn: nqn, model: "x" });
    if (multipath) await put(`${folder}/nvme${s}n1`, device);
    if (multipath) await Deno.mkdir(`${folder}/nvme${s}n1/holders`);
    await Deno.symlink(
      `../../devices/virtual/nvme-subsystem/nvme-subsys${s}`,
      `${root}/class/nvme-subsystem/nvme-subsys${s}`,
    );
    for (const [c, state] of Object.entries(controllers)) {
      const controller = `${root}/devices/virtual/nvme-fabrics/ctl/nvme${c}`;
      await put(controller, { subsysnqn: nqn, state, address: "traddr=10.0.0.1,trsvcid=4420", transport: "tcp" });
      const path = multipath ? `nvme${s}c${c}n1` : `nvme${s}n1`;
      await put(`${controller}/${path}`, multipath ? { nsid: 1, size } : device);
      await Deno.mkdir(`${controller}/${path}/holders`);
      await Deno.symlink(`../../nvme-fabrics/ctl/nvme${c}`, `${folder}/nvme${c}`);
      await Deno.symlink(`../../devices/virtual/nvme-fabrics/ctl/nvme${c}`, `${root}/class/nvme/nvme${c}`);
    }
  }
  return root;
}

function sysfs(root: string): Sysfs {
  return new Sysfs({ sysfs: root, dev: "/host/dev" });
}

const remove = (root: string) => Deno.remove(root, { recursive: true });

Deno.test("Sysfs.session() finds the subsystem's device behind symlinks, never a path's own", async () => {
  const root = await tree({ nqn, subsystem: 3, controllers: { 5: "live", 6: "connecting" }, size: 4096, minor: 260 });
  assertEquals(await sysfs(root).session(nqn), {
    nqn,
    controllers: [
      { name: "nvme5", state: "live" },
      { name: "nvme6", state: "connecting" },
    ],
    namespaces: [
      {
        name: "nvme3n1",
        nsid: 1,
        size: 4096 * 512,
        majorMinor: "259:260",
        path: "/host/dev/nvme3n1",
        holders: [],
        partitions: [],
      },
    ],
    live: true,
  });
  await remove(root);
});

Deno.test("Sysfs.session() finds the device of a kernel without multipath under its controller", async () => {
  const root = await tree({ nqn, subsystem: 1, controllers: { 1: "live" }, multipath: false });
  assertEquals((await sysfs(root).session(nqn))?.namespaces.map((each) => each.name), ["nvme1n1"]);
  await remove(root);
});

Deno.test("Sysfs.session() takes the exact NQN among others that begin or end alike", async () => {
  const root = await tree(
    { nqn: `${nqn}.g1`, subsystem: 0, controllers: { 0: "live" } },
    { nqn: nqn.slice(0, -1), subsystem: 1, controllers: { 1: "live" } },
    { nqn: `x${nqn}`, subsystem: 2, controllers: { 2: "live" } },
  );
  assertEquals(await sysfs(root).session(nqn), undefined);
  assertEquals((await sysfs(root).session(`${nqn}.g1`))?.namespaces[0]?.name, "nvme0n1");
  await remove(root);
});

Deno.test("Sysfs.session() calls a session live only while one of its controllers is", async () => {
  for (const state of ["connecting", "resetting", "new", "deleting", "dead", "deleting (no IO)"]) {
    const root = await tree({ nqn, subsystem: 0, controllers: { 0: state } });
    assertEquals((await sysfs(root).session(nqn))?.live, false, state);
    await remove(root);
  }
});

Deno.test("Sysfs.session() sees a controller that has no subsystem yet", async () => {
  const root = await tree({ nqn, subsystem: 0, controllers: { 0: "connecting" } });
  await Deno.remove(`${root}/class/nvme-subsystem/nvme-subsys0`);
  const session = await sysfs(root).session(nqn);
  assertEquals([session?.controllers.length, session?.namespaces.length, session?.live], [1, 0, false]);
  await remove(root);
});

Deno.test("Sysfs.session() sees the device that outlives its controllers, and nothing in an empty subsystem", async () => {
  const root = await tree({ nqn, subsystem: 0, controllers: {} });
  assertEquals((await sysfs(root).session(nqn))?.namespaces.length, 1);
  await remove(`${root}/devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1`);
  assertEquals(await sysfs(root).session(nqn), undefined);
  await remove(root);
});

Deno.test("Sysfs.session() knows of no session while the kernel's module is not loaded", async () => {
  const root = await Deno.makeTempDir();
  await Deno.mkdir(`${root}/class`);
  assertEquals(await sysfs(root).session(nqn), undefined);
  await remove(root);
});

Deno.test("Sysfs.session() never reads a failure as an absence", async () => {
  const empty = await Deno.makeTempDir();
  await assertRejects(() => sysfs(empty).session(nqn), FailedPrecondition, "--sysfs-root");
  await remove(empty);
  const vanishing = await tree({ nqn, subsystem: 0, controllers: { 0: "live" } });
  await remove(`${vanishing}/devices/virtual/nvme-fabrics/ctl/nvme0`);
  await assertRejects(() => sysfs(vanishing).session(nqn), Unreachable, "cannot be read");
  await remove(vanishing);
  const broken = await tree({ nqn, subsystem: 0, controllers: { 0: "live" }, size: NaN });
  await assertRejects(() => sysfs(broken).session(nqn), Unreachable, "no number");
  await remove(broken);
});

Deno.test("Sysfs.session() looks again when a controller vanishes while it is being read", async () => {
  const root = await tree(
    { nqn, subsystem: 0, controllers: { 0: "live" } },
    { nqn: `${nqn}.g1`, subsystem: 1, controllers: { 1: "live" } },
  );
  await remove(`${root}/devices/virtual/nvme-fabrics/ctl/nvme0`);
  const looking = sysfs(root).session(`${nqn}.g1`);
  await Deno.remove(`${root}/class/nvme/nvme0`);
  assertEquals((await looking)?.live, true);
  await remove(root);
});

Deno.test("Sysfs looks for twenty volumes at a time together whose the folders are, and at none of the others", async () => {
  const nqns = Array.from({ length: 20 }, (_, i) => `${prefix}${i.toString(16).padStart(28, "0")}`);
  const root = await tree(...nqns.map((each, i) => ({ nqn: each, subsystem: i, controllers: { [i]: "live" } })));
  const read = Deno.readTextFile;
  let reads = 0;
  Deno.readTextFile = (...args) => {
    reads++;
    return read(...args);
  };
  try {
    const looked = sysfs(root);
    const found = await Promise.all(nqns.map((each) => looked.session(each)));
    assertEquals(found.map((session) => session?.nqn), nqns);
    const ids = nqns.map((each) => `pvc-${each.slice(prefix.length)}`);
    const managed = await Promise.all(ids.map((volumeId) => looked.managed(prefix, { volumeId })));
    assertEquals(managed.flat().map((session) => session.nqn), nqns);
  } finally {
    Deno.readTextFile = read;
  }
  // One look for each of them at all folders would be 800 twice, at all devices 4000.
  assert(reads < 600, `${reads} reads`);
  await remove(root);
});

Deno.test("Sysfs.session() takes nothing that was read under a number that has become another's meanwhile", async () => {
  const root = await tree(
    { nqn, subsystem: 0, controllers: { 0: "live" } },
    { nqn: `${nqn}.g1`, subsystem: 1, controllers: { 1: "connecting" } },
  );
  const read = Deno.readTextFile;
  Deno.readTextFile = async (path, options) => {
    // The kernel gives number 0 to the other session right before its state is read.
    if (String(path).endsWith("nvme0/state")) {
      Deno.readTextFile = read;
      const link = `${root}/class/nvme/nvme0`;
      await Deno.remove(link);
      await Deno.symlink("../../devices/virtual/nvme-fabrics/ctl/nvme1", link);
    }
    return await read(path, options);
  };
  try {
    assertEquals((await sysfs(root).session(nqn))?.controllers, []);
  } finally {
    Deno.readTextFile = read;
  }
  await remove(root);
});

Deno.test("Sysfs.managed() lists our sessions with volume and generation, and no other", async () => {
  const root = await tree(
    { nqn: `${nqn}.g2`, subsystem: 0, controllers: { 0: "connecting" } },
    { nqn: "nqn.2000-02.com.mikrotik:nixos-var", subsystem: 1, controllers: { 1: "live" } },
    { nqn: `${prefix}somebody-else`, subsystem: 2, controllers: { 2: "live" } },
  );
  const found = (await sysfs(root).managed(prefix)).map(({ volumeId, generation, live }) => ({
    volumeId,
    generation,
    live,
  }));
  assertEquals(found, [{ volumeId: `pvc-${body}`, generation: 2, live: false }]);
  await remove(root);
});

Deno.test("Sysfs.ownerOf() names whoever has a device number now, and disks of other kinds, too", async () => {
  const root = await tree({
    nqn: "nqn.2000-02.com.mikrotik:nixos-var",
    subsystem: 1,
    controllers: { 1: "live" },
    minor: 9,
  });
  assertEquals(await sysfs(root).ownerOf("259:9"), "nqn.2000-02.com.mikrotik:nixos-var");
  assertEquals(await sysfs(root).ownerOf("259:8"), undefined);
  await Deno.mkdir(`${root}/dev/block`, { recursive: true });
  await Deno.symlink("../../devices/virtual/block/loop0/loop0p1", `${root}/dev/block/259:8`);
  assertEquals([await sysfs(root).ownerOf("259:8"), await sysfs(root).ownerOf("259:7")], ["loop0p1", undefined]);
  const read = Deno.readTextFile;
  let looks = 0;
  Deno.readTextFile = (path, options) => {
    if (String(path).endsWith("nvme1/state")) looks++;
    return read(path, options);
  };
  try {
    const owners = await sysfs(root).ownersOf(["259:7", "259:8", "259:9"]);
    assertEquals([...owners.keys(), looks], ["259:8", "259:9", 1], "all by one look");
    assertEquals([(await sysfs(root).ownersOf([])).size, looks], [0, 1]);
  } finally {
    Deno.readTextFile = read;
  }
  await remove(root);
});

Deno.test("Sysfs sees partitions, their numbers and what is built on them", async () => {
  const root = await tree({ nqn, subsystem: 1, controllers: { 1: "live" } });
  const folder = `${root}/devices/virtual/nvme-subsystem/nvme-subsys1/nvme1n1/nvme1n1p2`;
  await put(folder, { dev: "259:9", partition: 2 });
  await Deno.mkdir(`${folder}/holders/dm-3`, { recursive: true });
  const partitions = (await sysfs(root).session(nqn))?.namespaces[0]?.partitions;
  assertEquals(partitions, [{ name: "nvme1n1p2", majorMinor: "259:9", holders: ["dm-3"] }]);
  assertEquals(await sysfs(root).ownerOf("259:9"), nqn);
  await remove(root);
});

Deno.test("Sysfs gives up at its limit and when the caller goes, and sends no second look after one that hangs", async () => {
  const root = await tree({ nqn, subsystem: 1, controllers: { 1: "live" } });
  const state = `${root}/class/nvme/nvme1/state`;
  await Deno.remove(state);
  await new Deno.Command("mkfifo", { args: [state] }).output(); // Opening it waits for a writer.
  const slow = new Sysfs({ sysfs: root, dev: "/host/dev" }, { limit: 50 });
  const caller = new AbortController();
  const leaving = sysfs(root).session(nqn, { signal: caller.signal });
  caller.abort();
  await assertRejects(() => leaving, Cancelled);
  await assertRejects(() => slow.session(nqn), Unreachable, "no answer within");
  await assertRejects(() => slow.session(nqn), Unreachable, "still hangs");
  await Deno.writeTextFile(state, "live\n");
  await Deno.remove(state);
  await Deno.writeTextFile(state, "live\n");
  const signal = AbortSignal.timeout(10_000); // Until the hanging look has ended.
  assertEquals((await poll(() => slow.session(nqn).catch(() => undefined), { signal }))?.live, true);
  await remove(root);
});

Deno.test("Sysfs.hosts() tells as whom the kernel is connected, our sessions first, and passes over disks of the machine", async () => {
  const foreign = "nqn.2000-02.com.mikrotik:nixos-var";
  const root = await tree(
    { nqn: "nqn.2014-08.org.nvmexpress:disk", subsystem: 0, controllers: { 0: "live" } },
    { nqn: foreign, subsystem: 1, controllers: { 1: "live" } },
    { nqn, subsystem: 2, controllers: { 2: "connecting" } },
  );
  const controllers = `${root}/devices/virtual/nvme-fabrics/ctl`;
  await put(`${controllers}/nvme1`, { hostnqn: "nqn.2020-01.org.example:a", hostid: "id-a" });
  await put(`${controllers}/nvme2`, { hostnqn: "nqn.2020-01.org.example:b" });
  assertEquals(await sysfs(root).hosts(prefix), [
    { nqn, hostNqn: "nqn.2020-01.org.example:b", hostId: undefined },
    { nqn: foreign, hostNqn: "nqn.2020-01.org.example:a", hostId: "id-a" },
  ]);
  await remove(root);
  await assertRejects(() => sysfs(root).hosts(prefix), FailedPrecondition, "--sysfs-root");
});

Deno.test("Sysfs.hasModule() takes a tree without modules for no sysfs, not for a kernel without them", async () => {
  const root = await tree();
  await assertRejects(() => sysfs(root).hasModule("nvme_tcp"), FailedPrecondition, "--sysfs-root");
  await Deno.mkdir(`${root}/module/nvme_core`, { recursive: true });
  assertEquals([await sysfs(root).hasModule("nvme_tcp"), await sysfs(root).hasModule("nvme_core")], [false, true]);
  await remove(root);
});
