import { assert, assertEquals, assertRejects, assertStringIncludes, assertThrows } from "@std/assert";
import { prefix, type RouterOs, routerOs, until } from "../../tests/lab/routeros.ts";
import {
  AlreadyExists,
  Busy,
  FailedPrecondition,
  InvalidArgument,
  NoSpace,
  NotFound,
  OutOfRange,
  StartOver,
  TimedOut,
  Unreachable,
} from "../runtime/errors.ts";
import type { CreateRequest } from "./volumes.ts";

const GIB = 1n << 30n;
const name = "pvc-0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9";
const id = "pvc-0a1b2c3d4e5f60718293a4b5c6d7";
const file = `storage-pool/metal-csi/${id}.img`;

function request(more: Partial<CreateRequest> = {}): CreateRequest {
  return { name, range: { required: GIB, limit: 0n }, parameters: {}, ...more };
}

function disk(more: Record<string, string | number | boolean>): Record<string, string | number | boolean> {
  return { type: "file", "nvme-tcp-export": true, "nvme-tcp-server-port": 4420, size: Number(GIB), ...more };
}

/** Some devices take the slots that the Go driver makes. */
const longSlots = { longestSlot: 40 };

/** A volume as the Go driver makes it. */
const legacy = disk({
  slot: name,
  "file-path": `/storage-pool/metal-csi/${name}.img`,
  "nvme-tcp-server-nqn": `nqn.2000-02.com.mikrotik:${name}`,
  "mount-filesystem": true,
});

/** Nothing but the pool's row and no file. */
function isEmpty({ simulator }: RouterOs): boolean {
  const { disks, files } = simulator.state();
  return disks.every((row) => row["type"] !== "file") && files.length === 0;
}

async function gib(volumes: RouterOs["volumes"], name: string): Promise<string> {
  return (await volumes.create(request({ name }))).volume.id;
}

Deno.test("Volumes: create, get, expand, list and delete leave what they say on RouterOS, again and again", async () => {
  await using it = await routerOs();
  const { volumes, simulator } = it;
  for (const _ of [1, 2]) {
    const { volume, context } = await volumes.create(request({ parameters: { "csi.storage.k8s.io/pvc/name": "db" } }));
    assertEquals(volume.id, id);
    assertEquals(volume.size, GIB);
    assertEquals(context["nqn"], `${prefix}0a1b2c3d4e5f60718293a4b5c6d7`);
    assertEquals(context["volumePath"], `/${file}`);
    assertEquals(context["layout"], "file");
  }
  const [row] = simulator.state().disks.filter((row) => row["slot"] === id);
  assertEquals(row?.["mount-filesystem"], false);
  assertEquals(row?.["nvme-tcp-export"], true);
  for (const _ of [1, 2]) assertEquals(await volumes.expand(id, { required: 3n * GIB / 2n, limit: 0n }), 3n * GIB / 2n);
  assertEquals((await volumes.require(id)).size, 3n * GIB / 2n);
  assertEquals((await volumes.list({ token: "", most: 0 })).volumes.map((volume) => volume.id), [id]);
  for (const _ of [1, 2]) await volumes.delete(id);
  assert(isEmpty(it));
  assertEquals(await volumes.get(id), undefined);
});

Deno.test("Volumes: each call is one round trip", async () => {
  await using it = await routerOs();
  const { volumes, simulator } = it;
  await volumes.available({});
  const lines = async (work: () => Promise<unknown>) => {
    const before = simulator.state().lines;
    await work();
    return simulator.state().lines - before;
  };
  assertEquals(await lines(() => volumes.create(request())), 1, "create");
  assertEquals(await lines(() => volumes.get(id)), 1, "get");
  assertEquals(await lines(() => volumes.expand(id, { required: 2n * GIB, limit: 0n })), 1, "expand");
  assertEquals(await lines(() => volumes.list({ token: "", most: 10 })), 1, "list");
  assertEquals(await lines(() => volumes.available({})), 1, "capacity");
  assertEquals(await lines(() => volumes.delete(id)), 1, "delete");
});

Deno.test("Volumes.create() finds a volume of the Go driver instead of making it twice", async () => {
  await using it = await routerOs({ simulator: { foreignDisks: [legacy], guesses: longSlots } });
  const { volume, context } = await it.volumes.create(request());
  assertEquals(volume.id, name);
  assertEquals(context["nqn"], `nqn.2000-02.com.mikrotik:${name}`);
  assertEquals(it.simulator.state().files.length, 1);
  await it.volumes.unmountFilesystem(volume);
  assertEquals((await it.volumes.require(name)).mountFilesystem, false);
  await it.volumes.expand(name, { required: 2n * GIB, limit: 0n });
  await it.volumes.delete(name);
  assert(isEmpty(it));
});

Deno.test("Volumes.create() with legacy ids makes what the Go driver can handle, and finds short ones", async () => {
  await using it = await routerOs({ simulator: { guesses: { longestSlot: 40 } } });
  const other = await it.another({ idForm: "legacy" });
  assertEquals(await gib(other, name), name);
  assertEquals(await gib(it.volumes, name), name);
  const second = name.replace("0a1b", "ffff");
  const short = await gib(it.volumes, second);
  assertEquals(await gib(other, second), short);
});

Deno.test("Volumes.create() refuses a name that is taken with another size, and sizes the pool does not have", async () => {
  await using it = await routerOs({ simulator: { poolSize: Number(4n * GIB) } });
  await it.volumes.create(request());
  const twice = { required: 2n * GIB, limit: 0n };
  await assertRejects(() => it.volumes.create(request({ range: twice })), AlreadyExists, "1073741824 bytes");
  const large = { required: 5n * GIB, limit: 0n };
  await assertRejects(() => it.volumes.create(request({ name: "large", range: large })), OutOfRange, "than the pool");
  const tight = { required: 4n * GIB, limit: 0n };
  await assertRejects(
    () => it.volumes.create(request({ name: "tight", range: tight })),
    NoSpace,
    "can still be promised",
  );
  await it.volumes.create(request({ name: "rest", range: { required: 3n * GIB, limit: 0n } }));
  assertEquals((await it.volumes.available({})).available, 0n);
  await it.volumes.create(request());
  await assertRejects(() => it.volumes.expand(id, { required: 2n * GIB, limit: 0n }), NoSpace);
  assertEquals(await it.volumes.expand(id, { required: GIB, limit: 0n }), GIB);
});

Deno.test("Volumes.create() refuses a place where a file without a disk lies, and leaves it", async () => {
  let now = 0;
  await using it = await routerOs({ volumes: { now: () => now } });
  await Deno.mkdir(`${it.folder}/pool/metal-csi`, { recursive: true });
  await Deno.writeTextFile(`${it.folder}/pool/metal-csi/${id}.img`, "somebody's data");
  await assertRejects(() => it.volumes.create(request()), Busy, "may be just being made");
  now = 60_000;
  const error = await assertRejects(() => it.volumes.create(request()), FailedPrecondition, "file without a disk");
  assertStringIncludes((error as Error).message, `/file/remove [find where name="${file}"]`);
  assertEquals(await Deno.readTextFile(`${it.folder}/pool/metal-csi/${id}.img`), "somebody's data");
});

Deno.test("Volumes.create() refuses when a disk of somebody else has the slot, the file or the NQN", async () => {
  const nqn = `${prefix}${id.slice(4)}`;
  const planted = [
    disk({ slot: id, "file-path": "/storage-pool/other.img", "nvme-tcp-server-nqn": "nqn.x:other" }),
    disk({ slot: "other", "file-path": `/${file}`, "nvme-tcp-server-nqn": "nqn.x:other" }),
    disk({ slot: "other", "file-path": "/storage-pool/other.img", "nvme-tcp-server-nqn": `${nqn}.g3` }),
  ];
  for (const row of planted) {
    await using it = await routerOs({ simulator: { foreignDisks: [row] } });
    await assertRejects(() => it.volumes.create(request()), AlreadyExists, `'${row["slot"]}'`);
    assertEquals(it.simulator.state().files.length, 1);
  }
});

Deno.test("Volumes: disks that are not ours are refused by name and never changed, whatever is asked", async () => {
  const foreign = [
    disk({
      slot: "nixos-var",
      "file-path": "/storage-pool/nixos.img",
      "nvme-tcp-server-nqn": "nqn.2000-02.com.mikrotik:nixos-var",
    }),
    disk({ slot: id, "file-path": "/storage-pool/elsewhere/x.img", "nvme-tcp-server-nqn": `${prefix}${id.slice(4)}` }),
    disk({ slot: name, "file-path": `/storage-pool/metal-csi/${name}.img`, "nvme-tcp-server-nqn": "nqn.other:pvc-1" }),
  ];
  await using it = await routerOs({ simulator: { foreignDisks: foreign, guesses: longSlots } });
  const before = it.simulator.state();
  for (const slot of ["nixos-var", id, name]) {
    await assertRejects(() => it.volumes.delete(slot), InvalidArgument, `'${slot}'`);
    await assertRejects(() => it.volumes.expand(slot, { required: 4n * GIB, limit: 0n }), InvalidArgument, `'${slot}'`);
    await assertRejects(() => it.volumes.require(slot), InvalidArgument, `'${slot}'`);
  }
  assertEquals(it.simulator.state().disks, before.disks);
  assertEquals(it.simulator.state().files, before.files);
});

Deno.test("Volumes.delete() refuses the pool's own disk, and takes an id that nobody has for deleted", async () => {
  await using it = await routerOs({ simulator: { poolSlot: "storage-pool" } });
  await it.volumes.delete("no-such-volume");
  const before = it.simulator.state().disks;
  const refused = await it.volumes.delete("storage-pool").then(() => undefined, (error) => error);
  assert(refused instanceof InvalidArgument, String(refused));
  assertEquals(it.simulator.state().disks, before);
});

Deno.test("Volumes.delete() finishes what a fault left over: a row without export, a file without a row", async () => {
  await using it = await routerOs();
  await it.volumes.create(request());
  it.simulator.faults.busy("file remove");
  await assertRejects(() => it.volumes.delete(id), Unreachable, "try again");
  assertEquals(it.simulator.state().files.map((file) => file.name), [file]);
  await it.volumes.delete(id);
  await it.volumes.create(request());
  it.simulator.faults.busy("disk remove");
  await assertRejects(() => it.volumes.delete(id), Unreachable);
  await it.volumes.delete(id);
  assert(isEmpty(it));
});

Deno.test("Volumes.expand() never makes a volume smaller, not even when another one grew it in between", async () => {
  await using it = await routerOs();
  const other = await it.another();
  await it.volumes.create(request());
  await Promise.all([
    it.volumes.expand(id, { required: 4n * GIB, limit: 0n }),
    other.expand(id, { required: 2n * GIB, limit: 0n }),
    other.expand(id, { required: 3n * GIB, limit: 0n }).catch(() => {}),
  ]);
  assertEquals((await it.volumes.require(id)).size, 4n * GIB);
  await assertRejects(
    () => it.volumes.expand(id, { required: GIB, limit: 2n * GIB }),
    OutOfRange,
    "cannot be made smaller",
  );
  assertEquals((await it.volumes.require(id)).size, 4n * GIB);
  await assertRejects(() => it.volumes.expand("pvc-" + "0".repeat(28), { required: GIB, limit: 0n }), NotFound);
});

Deno.test("Volumes: a cut before, in the middle of and after a create ends in exactly one volume", async () => {
  for (const when of ["before", "middle", "after", "answer"] as const) {
    let now = 0;
    await using it = await routerOs({ now: () => now });
    await it.volumes.available({});
    it.simulator.faults.cut(when, "disk add");
    await assertRejects(() => it.volumes.create(request()), Unreachable);
    // What never ran is only known to be lost when its longest time has passed.
    if (when === "before") now = 10_000;
    await until(() => it.volumes.create(request()).then(() => true, () => false), `a create after a cut ${when}`);
    assertEquals(it.simulator.state().disks.filter((row) => row["slot"] === id).length, 1, when);
    assertEquals(it.simulator.state().files.length, 1, when);
  }
});

Deno.test("Volumes: an add that outlives its channel is waited for, also when it takes effect much later", async () => {
  await using it = await routerOs({ deadlines: { create: 50 } });
  await it.volumes.available({});
  it.simulator.setLatency("disk add", 300);
  await assertRejects(() => it.volumes.create(request()), TimedOut, "no answer within");
  await assertRejects(() => it.volumes.create(request()), Busy, "may still do it");
  await assertRejects(() => it.volumes.delete(id), Busy);
  await until(() => it.simulator.state().disks.some((row) => row["slot"] === id), "the late add");
  it.simulator.setLatency("disk add", 0);
  assertEquals((await it.volumes.create(request())).volume.id, id);
  assertEquals(it.simulator.state().disks.filter((row) => row["slot"] === id).length, 1);
});

Deno.test("Volumes: a change that was lost for good is sent again once its longest time has passed", async () => {
  let now = 0;
  await using it = await routerOs({ deadlines: { create: 50 }, now: () => now });
  await it.volumes.available({});
  it.simulator.faults.hang("disk add");
  await assertRejects(() => it.volumes.create(request()), TimedOut);
  await assertRejects(() => it.volumes.create(request()), Busy);
  now = 101;
  assertEquals((await it.volumes.create(request())).volume.id, id);
});

Deno.test("Volumes: a delete and an expand that were cut are finished by the next try", async () => {
  for (const when of ["before", "middle", "after"] as const) {
    let now = 0;
    await using it = await routerOs({ now: () => now });
    const { volumes, simulator } = it;
    const grow = () => volumes.expand(id, { required: 2n * GIB, limit: 0n });
    await volumes.create(request());
    simulator.faults.cut(when, "disk set");
    await assertRejects(grow, Unreachable);
    now += 10_000;
    await until(() => grow().then((size) => size === 2n * GIB, () => false), `grown after a cut ${when}`);
    simulator.faults.cut(when, "disk remove");
    await assertRejects(() => volumes.delete(id), Unreachable);
    now += 10_000;
    await until(() => volumes.delete(id).then(() => true, () => false), `deleted after a cut ${when}`);
    assert(isEmpty(it), when);
  }
});

Deno.test("Volumes: while RouterOS is away nothing is taken for missing, and it works again afterwards", async () => {
  await using it = await routerOs();
  await it.volumes.create(request());
  const reboot = it.simulator.faults.reboot(150);
  const calls = [
    () => it.volumes.get(id),
    () => it.volumes.create(request()),
    () => it.volumes.delete(id),
    () => it.volumes.expand(id, { required: GIB, limit: 0n }),
    () => it.volumes.list({ token: "", most: 0 }),
    () => it.volumes.available({}),
  ];
  for (const call of calls) await assertRejects(call, Unreachable);
  await reboot;
  await until(() => it.volumes.get(id).then((volume) => volume?.id === id, () => false), "reachable again");
  assertEquals(it.simulator.state().disks.filter((row) => row["slot"] === id).length, 1);
});

Deno.test("Volumes: a command that never answers fails in time, and the next one works", async () => {
  await using it = await routerOs({ deadlines: { read: 50 } });
  await it.volumes.create(request());
  it.simulator.faults.hang("disk print");
  await assertRejects(() => it.volumes.get(id), TimedOut);
  assertEquals((await it.volumes.get(id))?.id, id);
});

Deno.test("Volumes: a caller that goes away is answered at once, and its create is not done twice", async () => {
  await using it = await routerOs();
  await it.volumes.available({});
  it.simulator.setLatency("disk add", 100);
  const caller = new AbortController();
  const going = it.volumes.create(request(), caller.signal);
  await until(() => it.simulator.state().lines >= 3, "the create was sent");
  caller.abort();
  await assertRejects(() => going);
  await until(() => it.volumes.create(request()).then(() => true, () => false), "created after all");
  assertEquals(it.simulator.state().disks.filter((row) => row["slot"] === id).length, 1);
});

Deno.test("Volumes.list() pages through all, and survives changes between pages", async () => {
  await using it = await routerOs();
  const ids = (await Promise.all(["a", "b", "c", "d", "e"].map((name) => gib(it.volumes, name)))).sort();
  const first = await it.volumes.list({ token: "", most: 2 });
  assertEquals(first.volumes.map((volume) => volume.id), ids.slice(0, 2));
  await it.volumes.delete(ids[1] as string);
  const rest = await it.volumes.list({ token: first.next, most: 0 });
  assertEquals(rest.volumes.map((volume) => volume.id), ids.slice(2));
  assertEquals(rest.next, "");
  await assertRejects(() => it.volumes.list({ token: "bad", most: 2 }), StartOver);
  await assertRejects(() => it.volumes.list({ token: "", most: -1 }), InvalidArgument, "negative");
});

Deno.test("Volumes.create() takes only allowed base paths, and finds a volume again under each of them", async () => {
  await using it = await routerOs({ volumes: { bases: ["storage-pool/metal-csi", "storage-pool/fast"] } });
  const fast = request({ parameters: { volumePath: "/storage-pool/fast" } });
  assertEquals((await it.volumes.create(fast)).context["volumePath"], `/storage-pool/fast/${id}.img`);
  assertEquals((await it.volumes.require(id)).id, id);
  await it.volumes.delete(id);
  assert(isEmpty(it));
  const other = request({ parameters: { volumePath: "/storage-pool/secret" } });
  await assertRejects(() => it.volumes.create(other), InvalidArgument, "not allowed");
});

Deno.test("Volumes.checkExported() refuses a volume whose export somebody switched off, and says how to switch it on", async () => {
  await using it = await routerOs();
  await it.volumes.create(request());
  await it.simulator.run(`/disk/set [find where slot="${id}"] nvme-tcp-export=no`);
  const volume = await it.volumes.require(id);
  assertThrows(() => it.volumes.checkExported(volume), FailedPrecondition, "nvme-tcp-export=yes");
});

Deno.test("Volumes: everything works as well where the guesses about RouterOS turn out the other way", async () => {
  const guesses = {
    uniqueSlots: false,
    uniqueFiles: false,
    uniqueNqns: false,
    renamesExports: true,
    sizeOnExistingFile: true,
    preallocated: true,
    leadingSlash: false,
    outlivesChannel: false,
    noRows: "nothing" as const,
    jsonDecimals: true,
    failureStatus: 1,
    failuresOnStderr: true,
  };
  await using it = await routerOs({ simulator: { guesses } });
  assertEquals(await it.volumes.get(id), undefined);
  it.simulator.faults.noSpace();
  await assertRejects(() => it.volumes.create(request()), NoSpace, "not enough space");
  await it.volumes.create(request());
  await it.volumes.create(request());
  assertEquals(await it.volumes.expand(id, { required: 2n * GIB, limit: 0n }), 2n * GIB);
  assertEquals((await it.volumes.list({ token: "", most: 0 })).volumes.length, 1);
  assertEquals(await it.volumes.fence(id), { from: `${prefix}${id.slice(4)}`, to: `${prefix}${id.slice(4)}.g1` });
  const { volumes, strays } = await it.volumes.inventory();
  assertEquals([volumes.length, strays], [1, []]);
  await it.volumes.delete(id);
  assertEquals(await it.volumes.inventory(), { volumes: [], strays: [] });
  assert(isEmpty(it));
});

Deno.test("Volumes.create() answers with no final code when RouterOS fails after the add, and finds the volume then", async () => {
  for (const text of ["failure: flux", "input does not match any value of where", "interrupted", ""]) {
    let now = 0;
    await using it = await routerOs({ now: () => now });
    await it.volumes.available({});
    it.simulator.faults.error(text, "disk print");
    await assertRejects(() => it.volumes.create(request()), Unreachable, undefined, text);
    now = 10_000;
    assertEquals((await it.volumes.create(request())).volume.id, id, text);
    assertEquals(it.simulator.state().commands["disk add"], 1, text);
  }
});

Deno.test("Volumes.create() takes a refusal of the add itself for what it is, and tries again at once", async () => {
  await using it = await routerOs();
  await it.volumes.available({});
  it.simulator.faults.noSpace();
  await assertRejects(() => it.volumes.create(request()), NoSpace, "not enough space");
  await it.volumes.create(request());
});

Deno.test("Volumes.create() by two controllers at once ends in one volume, and both find it", async () => {
  for (const text of ["failure: already have such slot", "failure: file already exists"]) {
    await using it = await routerOs();
    const other = await it.another();
    const [one, two] = await Promise.all([it.volumes.create(request()), other.create(request())]);
    assertEquals([one.volume.id, two.volume.id], [id, id]);
    assertEquals(it.simulator.state().disks.filter((row) => row["slot"] === id).length, 1);
    // Between the count and the add somebody else was quicker: what is there decides.
    await it.volumes.delete(id);
    it.simulator.faults.error(text, "disk add");
    await assertRejects(() => it.volumes.create(request()), Unreachable, "shows no such disk");
  }
});

Deno.test("Volumes.create() looks for a lost create before the pool can refuse it", async () => {
  let now = 0;
  await using it = await routerOs({ simulator: { poolSize: Number(2n * GIB) }, now: () => now });
  const large = request({ range: { required: 2n * GIB, limit: 0n } });
  await it.volumes.available({});
  it.simulator.faults.cut("after", "disk add");
  await assertRejects(() => it.volumes.create(large), Unreachable);
  it.simulator.faults.error("failure: flux", "disk print", 2);
  await until(() => it.connection.connected, "connected again");
  await assertRejects(() => it.volumes.create(large), Unreachable, "flux");
  it.simulator.faults.clear();
  now = 10_000;
  assertEquals((await it.volumes.create(large)).volume.size, 2n * GIB);
});

Deno.test("Volumes.create() calls no missing pool final, since an earlier create may be on it", async () => {
  await using it = await routerOs({ volumes: { bases: ["other-pool/csi"] } });
  await assertRejects(() => it.volumes.create(request()), Unreachable, "no disk mounted at 'other-pool'");
  await assertRejects(() => it.volumes.available({}), FailedPrecondition, "--rds-volume-base-path");
});

Deno.test("Volumes.create() does not adopt a volume that is not exported: it is being deleted", async () => {
  await using it = await routerOs();
  await it.volumes.create(request());
  it.simulator.faults.busy("disk remove");
  await assertRejects(() => it.volumes.delete(id), Unreachable);
  await assertRejects(() => it.volumes.create(request()), Busy, "being deleted");
});

Deno.test("Volumes.create() tells of an adopted volume what it is, not what the StorageClass would make now", async () => {
  await using it = await routerOs({ volumes: { bases: ["storage-pool/metal-csi", "storage-pool/fast"] } });
  await it.volumes.create(request({ parameters: { volumePath: "/storage-pool/fast", nvmePort: "4421" } }));
  const { context } = await it.volumes.create(request());
  assertEquals(context["volumePath"], `/storage-pool/fast/${id}.img`);
  assertEquals(context["nvmePort"], "4421");
});

Deno.test("Volumes.get() of an odd id, or a row without a size, takes nobody else's answer along", async () => {
  const odd = disk({
    slot: `${id.slice(0, -4)}ffff`,
    "file-path": "/storage-pool/odd.img",
    "nvme-tcp-server-nqn": `${prefix}${id.slice(4, -4)}ffff`,
  });
  await using it = await routerOs({ simulator: { foreignDisks: [odd] } });
  await it.volumes.create(request());
  const [good, ...bad] = await Promise.allSettled([
    it.volumes.get(id),
    it.volumes.get("pvc-é"),
    it.volumes.get("x".repeat(600)),
    it.volumes.get(odd["slot"] as string),
  ]);
  assertEquals(good.status, "fulfilled");
  assertEquals(bad.map(({ status }) => status), ["rejected", "rejected", "rejected"]);
  assertEquals((await it.volumes.list({ token: "", most: 0 })).volumes.map((volume) => volume.id), [id]);
});

Deno.test("Volumes.unmountFilesystem() fails unless RouterOS shows that it did", async () => {
  await using it = await routerOs({ simulator: { foreignDisks: [legacy], guesses: longSlots } });
  const volume = await it.volumes.require(name);
  await it.simulator.run(
    `/disk/set [find where slot="${name}"] nvme-tcp-export=no nvme-tcp-server-nqn="nqn.other:name"`,
  );
  await assertRejects(() => it.volumes.unmountFilesystem(volume), Unreachable, "may still mount");
});

Deno.test("Volumes.expand() asks only the pool that the volume is on", async () => {
  await using it = await routerOs({ volumes: { bases: ["storage-pool/metal-csi", "gone-pool/csi"] } });
  await it.volumes.create(request());
  assertEquals(await it.volumes.expand(id, { required: 2n * GIB, limit: 0n }), 2n * GIB);
});

Deno.test("Volumes.delete() names the disk of somebody else that uses the volume's file", async () => {
  const user = disk({ slot: "other", "file-path": `/${file}`, "nvme-tcp-server-nqn": "nqn.other:x" });
  await using it = await routerOs({ simulator: { foreignDisks: [user] } });
  await assertRejects(() => it.volumes.delete(id), InvalidArgument, "'other'");
  assertEquals(it.simulator.state().files.length, 1);
});
