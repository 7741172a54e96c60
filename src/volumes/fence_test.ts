import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { prefix, type RouterOs, routerOs, until } from "../../tests/lab/routeros.ts";
import type { Disk } from "../rds/decode.ts";
import type { FaultRule } from "../simulator/faults.ts";
import { Busy, Cancelled, InvalidArgument, TimedOut, Unreachable } from "../runtime/errors.ts";
import { fence } from "./fence.ts";
import { targetOf } from "./ownership.ts";

const GIB = 1n << 30n;
const base = "storage-pool/metal-csi";
const name = "pvc-0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9";
const id = "pvc-0a1b2c3d4e5f60718293a4b5c6d7";
const nqn = prefix + id.slice(4);
const request = { name, range: { required: GIB, limit: 0n }, parameters: {} };

/** What RouterOS has of the volume: its NQN, and whether it is exported. */
function shown({ simulator }: RouterOs): unknown[] {
  return simulator.state().disks.filter((row) => row["type"] === "file")
    .map((row) => [row["nvme-tcp-server-nqn"], row["nvme-tcp-export"]]);
}

async function withVolume(
  work: (it: RouterOs & { advance(milliseconds: number): void }) => Promise<void>,
  options: Parameters<typeof routerOs>[0] = {},
): Promise<void> {
  let now = 0;
  await using it = await routerOs({ now: () => now, ...options });
  await it.volumes.create(request);
  await work(Object.assign(it, { advance: (milliseconds: number) => void (now += milliseconds) }));
}

/** Each command of the fence by itself. */
const steps = ["nvme-tcp-export=no", "nvme-tcp-server-nqn", "nvme-tcp-export=yes"];

Deno.test("Volumes.fence() ends the export under the old NQN and gives it back under the next generation", async () => {
  await withVolume(async (it) => {
    assertEquals(it.simulator.state().exports, [nqn]);
    assertEquals(await it.volumes.fence(id, nqn), { from: nqn, to: `${nqn}.g1` });
    assertEquals(shown(it), [[`${nqn}.g1`, true]]);
    assertEquals(it.simulator.state().exports, [`${nqn}.g1`]);
    assertEquals((await it.volumes.require(id)).nqn, `${nqn}.g1`);
  });
});

Deno.test("Volumes.fence() does nothing where the node is cut off already, and cuts again whoever has the present one", async () => {
  await withVolume(async ({ volumes, simulator }) => {
    await volumes.fence(id, nqn);
    const before = simulator.state().commands["disk set"];
    for (const _ of [1, 2]) assertEquals(await volumes.fence(id, nqn), undefined);
    assertEquals(simulator.state().commands["disk set"], before);
    assertEquals(await volumes.fence(id, `${nqn}.g1`), { from: `${nqn}.g1`, to: `${nqn}.g2` });
    for (const old of [nqn, `${nqn}.g1`]) assertEquals(await volumes.fence(id, old), undefined);
    assertEquals(await volumes.fence(id, undefined), { from: `${nqn}.g2`, to: `${nqn}.g3` });
  });
});

Deno.test("Volumes.fence() takes no NQN of another volume, or one it cannot read, for proof of anything", async () => {
  await withVolume(async ({ volumes }) => {
    await volumes.fence(id);
    const odd = [`${prefix}${"f".repeat(28)}`, "nqn.other:x", "", `${nqn}.g01`, `${nqn}.g0`];
    for (const [at, held] of odd.entries()) {
      assertEquals((await volumes.fence(id, held))?.to, `${nqn}.g${at + 2}`, held);
    }
  });
});

Deno.test("Volumes.fence() never gives the node's own generation back, where RouterOS forgot some", async () => {
  await withVolume(async ({ volumes }) => {
    assertEquals(await volumes.fence(id, `${nqn}.g5`), { from: nqn, to: `${nqn}.g6` });
  });
});

Deno.test("Volumes.fence() has nothing to cut where there is no volume, and leaves other people's disks alone", async () => {
  const foreign = {
    type: "file",
    slot: "nixos-var",
    "file-path": "/storage-pool/nixos.img",
    "nvme-tcp-export": true,
    "nvme-tcp-server-nqn": "nqn.2000-02.com.mikrotik:nixos-var",
  };
  await using it = await routerOs({ simulator: { foreignDisks: [foreign] } });
  assertEquals(await it.volumes.fence(id, nqn), undefined);
  assertEquals(await it.volumes.fence("no-volume"), undefined);
  await assertRejects(() => it.volumes.fence("nixos-var"), InvalidArgument, "'nixos-var'");
  assertEquals(shown(it), [["nqn.2000-02.com.mikrotik:nixos-var", true]]);
  const elsewhere = { ...foreign, slot: id, "nvme-tcp-server-nqn": nqn };
  await using other = await routerOs({ simulator: { foreignDisks: [elsewhere] } });
  await assertRejects(() => other.volumes.fence(id), InvalidArgument, "is not a volume of this driver");
  assertEquals(shown(other), [[nqn, true]]);
});

const ours: Disk = {
  slot: id,
  type: "file",
  file: `${base}/${id}.img`,
  size: GIB,
  nqn: `${nqn}.g1`,
  port: 4420,
  exported: true,
  mountFilesystem: false,
  comment: "",
};

const afterwards: [what: string, disks: Disk[]][] = [
  ["no disk", []],
  ["the old NQN", [{ ...ours, nqn }]],
  ["a later NQN", [{ ...ours, nqn: `${nqn}.g2` }]],
  ["no export", [{ ...ours, exported: false }]],
  ["another file", [{ ...ours, file: "storage-pool/other.img" }]],
  ["another type", [{ ...ours, type: "raid" }]],
  ["two disks", [ours, { ...ours, slot: "other" }]],
];

Deno.test("fence() takes nothing for done but one disk of ours, exported under the new NQN", async () => {
  const fenced = (disks: Disk[]) =>
    fence({ id, heldNqn: nqn }, {
      disks: { get: () => Promise.resolve({ ...ours, nqn }), fence: () => Promise.resolve({ disks, files: 0 }) },
      prefix,
      bases: [base],
    });
  for (const [what, disks] of afterwards) await assertRejects(() => fenced(disks), Unreachable, "shows", what);
  assertEquals(await fenced([ours]), { from: nqn, to: `${nqn}.g1` });
});

Deno.test("Disks.fence() does nothing in RouterOS where the disk has another NQN by then", async () => {
  await withVolume(async (it) => {
    await it.volumes.fence(id);
    const target = targetOf(id, { prefix, bases: [base] });
    const sets = it.simulator.state().commands["disk set"];
    const { disks } = await it.disks.fence(target, { from: nqn, to: `${nqn}.g7` });
    assertEquals(disks.map(({ nqn, exported }) => [nqn, exported]), [[`${nqn}.g1`, true]]);
    assertEquals(it.simulator.state().commands["disk set"], sets);
  });
});

Deno.test("Volumes.fence() that RouterOS refuses at any step is Unreachable, says what to do, and the next try works", async () => {
  const texts = ["not enough permissions (9)", "failure: can not do that", "bad parameter nvme-tcp-server-nqn"];
  for (const [at, argument] of steps.entries()) {
    for (const text of texts) {
      await withVolume(async (it) => {
        it.simulator.faults.add({ action: "error", command: "disk set", argument, text });
        const error = await assertRejects(() => it.volumes.fence(id, nqn), Unreachable, text);
        assertStringIncludes((error as Error).message, `nvme-tcp-server-nqn="${nqn}.g1"`);
        assertStringIncludes((error as Error).message, "--fence=off");
        assertEquals(shown(it), [[at === 2 ? `${nqn}.g1` : nqn, at === 0]], "what was done stays done");
        assertEquals((await it.volumes.fence(id, nqn))?.to, `${nqn}.g${at === 2 ? 2 : 1}`);
        assertEquals(it.simulator.state().exports, [`${nqn}.g${at === 2 ? 2 : 1}`]);
      });
    }
  }
});

Deno.test("Volumes.fence() is not done where RouterOS says nothing and does nothing", async () => {
  await withVolume(async (it) => {
    // Somebody else's disk has the next generation's NQN, so that what is shown afterwards is not one row.
    await it.simulator.run(
      `/disk/add type=file slot=other file-path="/storage-pool/other.img" file-size=1M nvme-tcp-server-nqn="${nqn}.g1"`,
    );
    const error = await assertRejects(() => it.volumes.fence(id, nqn), Unreachable, "'other' not exported");
    assertStringIncludes((error as Error).message, `'${id}'`);
  }, { simulator: { guesses: { uniqueNqns: false } } });
});

Deno.test("Volumes.fence() by hand, as its message says, is taken for done", async () => {
  await withVolume(async ({ volumes, simulator }) => {
    simulator.faults.add({ action: "error", command: "disk set", text: "not enough permissions (9)" });
    const { message } = await volumes.fence(id, nqn).then(() => new Error("it worked"), (error: Error) => error);
    const lines = [...message.matchAll(/'(\/disk\/set .*? nvme-tcp-\S+)'/g)].map(([, line]) => line as string);
    assertEquals(lines.length, 3);
    for (const line of lines) assertEquals(await simulator.run(line), "");
    assertEquals(await volumes.fence(id, nqn), undefined);
    assertEquals(simulator.state().exports, [`${nqn}.g1`]);
  });
});

Deno.test("Volumes.fence() whose answer was lost is done once, or waits until it can no longer take effect", async () => {
  const cuts: FaultRule[] = [
    { action: "cut", when: "before", command: "disk set" },
    ...steps.map((argument) => ({ action: "cut", when: "middle", command: "disk set", argument }) as const),
    { action: "cut", when: "after", command: "disk set" },
    { action: "cut", when: "answer", command: "disk set" },
  ];
  for (const cut of cuts) {
    const what = JSON.stringify(cut);
    await withVolume(async (it) => {
      it.simulator.faults.add(cut);
      await assertRejects(() => it.volumes.fence(id, nqn), Unreachable, "is not cut off", what);
      await until(() => it.connection.connected, "connected again");
      await until(() => it.simulator.state().channels === 0, "the lost line has ended");
      const isDone = cut.when === "after" || cut.when === "answer" || cut.argument === steps[2];
      if (!isDone) await assertRejects(() => it.volumes.fence(id, nqn), Busy, "may still do it", what);
      it.advance(10_000);
      const fenced = await it.volumes.fence(id, nqn);
      assertEquals(fenced === undefined, isDone, what);
      const [[now, isExported] = []] = shown(it) as [unknown[]];
      assert(isExported === true && now !== nqn, what);
      assertEquals(it.simulator.state().exports, [now], what);
    });
  }
});

Deno.test("Volumes.fence() fails in time where RouterOS does not answer, and gives a caller up who left", async () => {
  await withVolume(async (it) => {
    it.simulator.faults.hang("disk set");
    await assertRejects(() => it.volumes.fence(id, nqn), TimedOut);
    await assertRejects(() => it.volumes.fence(id, nqn), Busy);
    await assertRejects(() => it.volumes.fence(id, nqn, AbortSignal.abort()), Cancelled);
    it.advance(1000);
    assertEquals((await it.volumes.fence(id, nqn))?.to, `${nqn}.g1`);
  }, { deadlines: { resize: 50 } });
});

Deno.test("Volumes.fence() while RouterOS is away proves nothing, and works afterwards", async () => {
  await withVolume(async (it) => {
    const reboot = it.simulator.faults.reboot(150);
    await assertRejects(() => it.volumes.fence(id, nqn), Unreachable, "is not cut off");
    await reboot;
    await until(() => it.volumes.fence(id, nqn).then((fenced) => fenced !== undefined, () => false), "fenced");
    assertEquals(it.simulator.state().exports, [`${nqn}.g1`]);
  });
});

Deno.test("Volumes.fence() by two controllers at once ends in one exported generation after the node's", async () => {
  await withVolume(async (it) => {
    const other = await it.another();
    const results = await Promise.allSettled([1, 2, 3].flatMap(() => [
      it.volumes.fence(id, nqn),
      other.fence(id, nqn),
    ]));
    assert(results.some(({ status }) => status === "fulfilled"));
    const [[now, isExported] = []] = shown(it) as [unknown[]];
    assert(isExported === true && now !== nqn, String(now));
    assertEquals(await it.volumes.fence(id, nqn), undefined);
  });
});

Deno.test("a fenced volume is found, made again, grown, listed and deleted like any", async () => {
  await withVolume(async (it) => {
    const { volumes, simulator } = it;
    for (const generation of [1, 2]) {
      await volumes.fence(id);
      const { volume, context } = await volumes.create(request);
      assertEquals([volume.id, volume.nqn], [id, `${nqn}.g${generation}`]);
      assertEquals(context["nqn"], `${nqn}.g${generation}`);
    }
    assertEquals(simulator.state().commands["disk add"], 1);
    assertEquals(await volumes.expand(id, { required: 2n * GIB, limit: 0n }), 2n * GIB);
    assertEquals((await volumes.list({ token: "", most: 0 })).volumes.map(({ nqn }) => nqn), [`${nqn}.g2`]);
    assertEquals((await volumes.inventory()).volumes.length, 1);
    await volumes.delete(id);
    assertEquals([shown(it), simulator.state().files, simulator.state().exports], [[], [], []]);
    assertEquals((await volumes.create(request)).volume.nqn, nqn);
  });
});

Deno.test("a volume of the Go driver is fenced as well, and found by both forms of its id", async () => {
  const legacy = {
    type: "file",
    slot: name,
    "file-path": `/storage-pool/metal-csi/${name}.img`,
    "nvme-tcp-server-nqn": prefix + name.slice(4),
    "nvme-tcp-export": true,
    size: Number(GIB),
  };
  await using it = await routerOs({ simulator: { foreignDisks: [legacy], guesses: { longestSlot: 40 } } });
  assertEquals((await it.volumes.fence(name))?.to, `${prefix}${name.slice(4)}.g1`);
  const { volume } = await it.volumes.create(request);
  assertEquals([volume.id, volume.nqn], [name, `${prefix}${name.slice(4)}.g1`]);
  await it.volumes.delete(name);
  assertEquals(it.simulator.state().files, []);
});
