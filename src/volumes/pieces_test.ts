import { assert, assertEquals, assertMatch, assertNotEquals, assertRejects, assertThrows } from "@std/assert";
import fc from "fast-check";
import { isVolumeId } from "../nvme/nqn.ts";
import { AlreadyExists, InvalidArgument, NoSpace, OutOfRange, StartOver, Unreachable } from "../runtime/errors.ts";
import { Capacity, left } from "./capacity.ts";
import { otherIdOf, volumeIdOf } from "./id.ts";
import { parameters, readParameters } from "./parameters.ts";
import { basePath, poolOf, volumeFile, volumeIdIn } from "./path.ts";
import { LEAST_SIZE, sizeFits, sizeForNew } from "./size.ts";
import { readToken, tokenAfter } from "./token.ts";

const MIB = 1n << 20n;
const GIB = 1n << 30n;
const uuid = "pvc-0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9";

Deno.test("volumeIdOf() takes the UUID's first 28 digits, and in the legacy form the name itself", () => {
  assertEquals(volumeIdOf(uuid, "short"), "pvc-0a1b2c3d4e5f60718293a4b5c6d7");
  assertEquals(volumeIdOf(uuid, "legacy"), uuid);
  assertEquals(otherIdOf(uuid, "short"), uuid);
});

Deno.test("volumeIdOf() makes a well-formed id of at most 32 characters of any name, the same every time", () => {
  fc.assert(fc.property(fc.string({ unit: "binary" }), (name) => {
    const id = volumeIdOf(name, "short");
    return isVolumeId(id) && id.length === 32 && id === volumeIdOf(name, "short") &&
      isVolumeId(volumeIdOf(name, "legacy"));
  }));
  assertNotEquals(volumeIdOf("a", "short"), volumeIdOf("b", "short"));
  assertNotEquals(volumeIdOf(uuid.toUpperCase(), "short"), volumeIdOf(uuid, "short"));
});

Deno.test("sizeForNew() gives exact bytes: 1 GiB at least, whole MiB, within the limit", () => {
  assertEquals(sizeForNew({ required: 0n, limit: 0n }), LEAST_SIZE);
  assertEquals(sizeForNew({ required: 1n, limit: 0n }), LEAST_SIZE);
  assertEquals(sizeForNew({ required: 3n * GIB / 2n, limit: 0n }), 3n * GIB / 2n);
  assertEquals(sizeForNew({ required: GIB + 1n, limit: 0n }), GIB + MIB);
  assertEquals(sizeForNew({ required: GIB + 1n, limit: GIB + 8192n }), GIB + 4096n);
});

Deno.test("sizeForNew() refuses ranges that contradict themselves or hold no possible size", () => {
  assertThrows(() => sizeForNew({ required: 2n * GIB, limit: GIB }), InvalidArgument, "over limit_bytes");
  assertThrows(() => sizeForNew({ required: -1n, limit: 0n }), InvalidArgument, "negative");
  assertThrows(() => sizeForNew({ required: 0n, limit: GIB - 1n }), OutOfRange, "raise the limit");
  assertThrows(() => sizeForNew({ required: GIB + 1n, limit: GIB + 2n }), OutOfRange);
});

Deno.test("sizeForNew() always fits the range it was given", () => {
  const bytes = fc.bigInt({ min: 0n, max: 1n << 45n });
  fc.assert(fc.property(bytes, bytes, (required, limit) => {
    try {
      const size = sizeForNew({ required, limit });
      return sizeFits(size, { required, limit }) && size >= LEAST_SIZE && size % 4096n === 0n;
    } catch (error) {
      return error instanceof OutOfRange || error instanceof InvalidArgument;
    }
  }));
});

Deno.test("basePath() takes absolute plain paths only", () => {
  assertEquals(basePath("/storage-pool/metal-csi/"), "storage-pool/metal-csi");
  assertEquals(poolOf("storage-pool/metal-csi"), "storage-pool");
  for (
    const path of ["", "/", "pool/a", "/pool/../etc", "/pool/./a", "/pool//a", "/pool/a b", '/pool/"; /system reset']
  ) {
    assertThrows(() => basePath(path), InvalidArgument, "no base path");
  }
});

Deno.test("readToken() reads back what tokenAfter() made and calls everything else ABORTED", () => {
  fc.assert(fc.property(fc.string(), (id) => readToken(tokenAfter(id)) === id));
  for (const token of ["x", "invalid", "YWZ0ZXI6_", "0"]) assertThrows(() => readToken(token), StartOver);
});

Deno.test("readParameters() fills in every default, and the provisioner's keys stay", () => {
  const wishes = readParameters(
    { "csi.storage.k8s.io/pvc/name": "db", "csi.storage.k8s.io/pvc/namespace": "prod" },
    "10.0.0.1",
  );
  assertEquals(wishes.claim, "prod/db");
  assertEquals(wishes.context, {
    rdsAddress: "10.0.0.1",
    nvmeAddress: "10.0.0.1",
    nvmePort: "4420",
    ctrlLossTmo: "-1",
    reconnectDelay: "5",
    keepAliveTmo: "0",
    migrationTimeoutSeconds: "300",
    layout: "file",
    "csi.storage.k8s.io/pvc/name": "db",
    "csi.storage.k8s.io/pvc/namespace": "prod",
  });
  assertEquals(readParameters({ rdsAddress: "10.9.9.9", nvmePort: "4421" }, "x").context["nvmeAddress"], "10.9.9.9");
});

Deno.test("readParameters() names each parameter that is unknown or wrong, all at once", () => {
  const given = {
    nvmePrt: "1",
    nvmePort: "70000",
    ctrlLossTmo: "-2",
    layout: "subvolume",
    volumePath: "/a/../b",
    fsType: "zfs",
  };
  const error = assertThrows(() => readParameters(given, "a"), InvalidArgument) as Error;
  for (const name of Object.keys(given)) assertMatch(error.message, new RegExp(`'?${name}`));
});

Deno.test("readParameters() has a bound for every number and takes both of its ends", () => {
  const bounds: [name: string, least: string, below: string][] = [
    ["migrationTimeoutSeconds", "30", "29"],
    ["reconnectDelay", "1", "0"],
    ["ctrlLossTmo", "-1", "-2"],
    ["keepAliveTmo", "0", "-1"],
  ];
  for (const [name, least, below] of bounds) {
    assertEquals(readParameters({ [name]: least }, "a").context[name], least);
    assertThrows(() => readParameters({ [name]: below }, "a"), InvalidArgument, name);
  }
  assert(parameters.length > bounds.length);
});

Deno.test("left() counts every promise, bounds it by what is free, and keeps the reserve", () => {
  const full = { ratio: 1, reserve: 0n };
  assertEquals(left({ size: 100n, free: 100n, promised: 30n }, full), 70n);
  assertEquals(left({ size: 100n, free: 40n, promised: 30n }, full), 40n);
  assertEquals(left({ size: 100n, free: 100n, promised: 130n }, full), 0n);
  assertEquals(left({ size: 100n, free: 100n, promised: 30n }, { ratio: 1.5, reserve: 20n }), 100n);
});

/** A capacity over a pool that the test can change, and how often it was read. */
function capacityOf(pool: { size: bigint; free: bigint; promised: bigint }) {
  const state = { reads: 0, now: 0 };
  const read = () => (state.reads++, Promise.resolve({ ...pool }));
  return { state, capacity: new Capacity({ read, ratio: 1, reserve: 0n, now: () => state.now }) };
}

const nothing = () => Promise.resolve();

Deno.test("Capacity.keep() asks RouterOS once while there is room, and again before it says no", async () => {
  const pool = { size: 100n, free: 100n, promised: 40n };
  const { capacity, state } = capacityOf(pool);
  const keep = (id: string, bytes: bigint) => capacity.keep({ pool: "p", id, bytes }, nothing);
  await keep("a", 25n);
  await keep("b", 25n);
  await keep("b", 25n);
  assertEquals(state.reads, 1);
  pool.promised = 90n;
  state.now = 10;
  await assertRejects(() => keep("c", 25n), NoSpace, "10 can still be promised");
  assertEquals(state.reads, 2);
  await assertRejects(() => keep("d", 101n), OutOfRange, "more than the pool");
  state.now = 60_011;
  await keep("e", 5n);
  assertEquals(state.reads, 4);
});

Deno.test("Capacity.keep() never promises twice what is asked for at once, whatever RouterOS shows meanwhile", async () => {
  const pool = { size: 100n, free: 100n, promised: 0n };
  const { capacity, state } = capacityOf(pool);
  const gate = Promise.withResolvers<void>();
  const keep = (id: string, work: () => Promise<void>) => capacity.keep({ pool: "p", id, bytes: 30n }, work);
  const asked = Array.from({ length: 8 }, (_, n) => keep(`v${n}`, () => gate.promise));
  const outcomes = Promise.allSettled(asked);
  state.now = 1;
  await capacity.available("p");
  await assertRejects(() => keep("late", nothing), NoSpace);
  gate.resolve();
  assertEquals((await outcomes).filter(({ status }) => status === "fulfilled").length, 3);
});

Deno.test("Capacity.keep() keeps the room of what may still come into being, and no other", async () => {
  const pool = { size: 100n, free: 100n, promised: 0n };
  const { capacity, state } = capacityOf(pool);
  const fail = (id: string, error: Error) => capacity.keep({ pool: "p", id, bytes: 60n }, () => Promise.reject(error));
  await assertRejects(() => fail("refused", new AlreadyExists("taken")));
  assertEquals((await capacity.available("p")).available, 100n);
  await assertRejects(() => fail("lost", new Unreachable("cut")));
  state.now = 1;
  assertEquals((await capacity.available("p")).available, 40n);
  state.now = 120_002;
  assertEquals((await capacity.available("p")).available, 100n);
});

Deno.test("volumeIdIn() reads back what volumeFile() makes, under these bases, and nothing else", () => {
  const bases = ["pool/csi", "pool/csi/fast"];
  for (const base of bases) {
    for (const id of [uuid, volumeIdOf(uuid, "short")]) assertEquals(volumeIdIn(volumeFile(base, id), bases), id);
  }
  const id = volumeIdOf(uuid, "short");
  const others = [
    `pool/${id}.img`,
    `pool/csi/x/${id}.img`,
    `/pool/csi/${id}.img`,
    `pool/csi/${id}`,
    `pool/csi/${id}.img.img`,
  ];
  for (const file of [...others, `${id}.img`, "pool/csi/.img", `pool/csi/snap-${id.slice(4)}.img`, ""]) {
    assertEquals(volumeIdIn(file, bases), undefined, file);
  }
});
