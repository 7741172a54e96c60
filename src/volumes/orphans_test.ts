import { assert, assertEquals, assertRejects } from "@std/assert";
import fc from "fast-check";
import { prefix, routerOs } from "../../tests/lab/routeros.ts";
import { Busy, Cancelled, Unreachable } from "../runtime/errors.ts";
import { commentFor } from "./comment.ts";
import { type Orphan, Orphans, type OrphansOptions, sentenceOf } from "./orphans.ts";
import type { StrayFile } from "./strays.ts";
import type { Volume } from "./volumes.ts";

const GIB = 1n << 30n;
const HOUR = 3_600_000;
const base = "storage-pool/metal-csi";
const uuid = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9";
const short = "pvc-0a1b2c3d4e5f60718293a4b5c6d7";
const signal = new AbortController().signal;

function idOf(number: number): string {
  return `pvc-${number.toString(16).padStart(28, "0")}`;
}

function volume(id: string, clusterId?: string): Volume {
  const at = { id, file: `${base}/${id}.img`, nqn: prefix + id.slice(4), port: 4420 };
  return {
    ...at,
    size: GIB,
    exported: true,
    mountFilesystem: false,
    comment: commentFor({ clusterId, claim: "shop/db" }),
  };
}

function stray(id: string): StrayFile {
  return { id, file: `${base}/${id}.img`, size: GIB };
}

/** RouterOS, the API server and the clock, as a test wants them. A PV that nothing else is about is always there. */
class World {
  volumes: Volume[] = [];
  strays: StrayFile[] = [];
  handles = new Set(["pvc-elsewhere"]);
  inUse = new Set<string>();
  now = 0;
  isRouterOsAway = false;
  isApiAway = false;
  /** Called before the PVs are read. */
  beforeHandles = () => {};
  readonly told: Orphan[] = [];
  readonly goodbyes: string[] = [];
  readonly deleted: string[] = [];
  readonly gauge = new Map<string, number>();
  cleaned = 0;

  orphans(more: Partial<OrphansOptions> = {}): Orphans {
    return new Orphans({
      volumes: {
        inventory: () =>
          this.#ask(this.isRouterOsAway, () => ({ volumes: [...this.volumes], strays: [...this.strays] })),
        get: (id) => this.#ask(this.isRouterOsAway, () => this.volumes.find((volume) => volume.id === id)),
        delete: (id) => this.#ask(this.isRouterOsAway, () => this.#delete(id)),
      },
      handles: () => {
        this.beforeHandles();
        return this.#ask(this.isApiAway, () => new Set(this.handles));
      },
      inUse: (id) => this.inUse.has(id),
      clusterId: "ours",
      action: "report",
      grace: HOUR,
      now: () => this.now,
      told: (orphan) => void this.told.push(orphan),
      cleaned: ({ id }) => void this.goodbyes.push(id),
      metrics: {
        orphans: { set: ({ kind }, value) => void this.gauge.set(kind, value) },
        orphansCleaned: { inc: () => void this.cleaned++ },
      },
      ...more,
    });
  }

  #ask<T>(isAway: boolean, answer: () => T): Promise<T> {
    return isAway ? Promise.reject(new Unreachable("away")) : Promise.resolve(answer());
  }

  #delete(id: string): void {
    this.deleted.push(id);
    this.volumes = this.volumes.filter((volume) => volume.id !== id);
  }
}

/** Two looks, an hour apart, which are enough to tell. */
async function lookTwice(world: World, orphans: Orphans): Promise<void> {
  await orphans.check(signal);
  world.now += HOUR;
  await orphans.check(signal);
}

/** Enough looks, an hour apart each, to delete what was told of. */
async function lookLong(world: World, orphans: Orphans): Promise<void> {
  await lookTwice(world, orphans);
  assertEquals(world.deleted, [], "deleted in the look that told of it");
  world.now += HOUR;
  await orphans.check(signal);
}

Deno.test("Orphans.check() tells at the second sighting and after the grace, whichever is later, and once", async () => {
  const world = new World();
  world.volumes = [volume(idOf(1))];
  world.strays = [stray(idOf(2))];
  const orphans = world.orphans();
  await orphans.check(signal);
  assertEquals([...world.gauge], [["disk", 0], ["file", 0]]);
  world.now = HOUR - 1;
  await orphans.check(signal);
  assertEquals(world.told, []);
  world.now = HOUR;
  for (const _ of [1, 2, 3]) await orphans.check(signal);
  assertEquals(world.told.map(({ kind, id, claim }) => [kind, id, claim]), [
    ["disk", idOf(1), "shop/db"],
    ["file", idOf(2), undefined],
  ]);
  assertEquals([...world.gauge], [["disk", 1], ["file", 1]]);
  world.volumes = [];
  await orphans.check(signal);
  assertEquals([...world.gauge], [["disk", 0], ["file", 1]]);
  const late = new World();
  late.volumes = [volume(idOf(1))];
  late.now = 10 * HOUR;
  const first = late.orphans({ grace: 0 });
  await first.check(signal);
  assertEquals(late.told, [], "one sighting is none, whatever the clock says");
  await first.check(signal);
  assertEquals(late.told.length, 1);
});

Deno.test("Orphans.check() forgets what has a PV again, or is gone, or is used: it starts from the beginning", async () => {
  const comings: ((world: World) => void)[] = [
    (world) => world.handles.add(idOf(1)),
    (world) => world.inUse.add(idOf(1)),
    (world) => void (world.volumes = []),
  ];
  for (const coming of comings) {
    const world = new World();
    world.volumes = [volume(idOf(1))];
    const orphans = world.orphans();
    await orphans.check(signal);
    coming(world);
    world.now = HOUR;
    await orphans.check(signal);
    world.handles.delete(idOf(1));
    world.inUse.clear();
    world.volumes = [volume(idOf(1))];
    await orphans.check(signal);
    world.now = 2 * HOUR - 1;
    await orphans.check(signal);
    assertEquals(world.told, [], coming.toString());
    world.now = 2 * HOUR;
    await orphans.check(signal);
    assertEquals(world.told.length, 1, coming.toString());
  }
});

Deno.test("Orphans.check() takes both forms of an id for one name", async () => {
  for (const [handle, id] of [[`pvc-${uuid}`, short], [short, `pvc-${uuid}`]] as const) {
    for (const way of ["handles", "inUse"] as const) {
      if (way === "inUse" && handle !== short) continue; // The longer form cannot be made from the shorter one.
      const world = new World();
      world.volumes = [volume(id, "ours")];
      world.strays = [stray(id)];
      world[way].add(handle);
      await lookTwice(world, world.orphans({ action: "delete" }));
      assertEquals([world.told, world.deleted], [[], []], `${way} ${handle}`);
    }
  }
});

Deno.test("Orphans.check() changes nothing where disks or PVs are not known, or no PV is there at all", async () => {
  const unknowns: ((world: World) => void)[] = [
    (world) => world.handles.clear(),
    (world) => void (world.isApiAway = true),
    (world) => void (world.isRouterOsAway = true),
  ];
  for (const unknown of unknowns) {
    const world = new World();
    world.volumes = [volume(idOf(1), "ours")];
    const orphans = world.orphans({ action: "delete" });
    unknown(world);
    await lookTwice(world, orphans);
    assertEquals([world.told.length, world.deleted.length, world.gauge.size], [0, 0, 0], unknown.toString());
    Object.assign(world, { handles: new Set(["pvc-elsewhere"]), isApiAway: false, isRouterOsAway: false });
    await orphans.check(signal);
    unknown(world);
    world.now += HOUR;
    await orphans.check(signal);
    assertEquals([world.told.length, world.deleted.length], [0, 0], unknown.toString());
    Object.assign(world, { handles: new Set(["pvc-elsewhere"]), isApiAway: false, isRouterOsAway: false });
    await orphans.check(signal);
    assertEquals([world.told.length, world.deleted.length], [1, 0], "the first sighting was forgotten");
    world.now += HOUR;
    await orphans.check(signal);
    assertEquals(world.deleted.length, 1);
  }
});

const made: [what: string, own: string | undefined, maker: string | undefined, told: number, deleted: number][] = [
  ["this cluster", "ours", "ours", 1, 1],
  ["another cluster", "ours", "theirs", 0, 0],
  ["a cluster whose name begins like ours", "ours", "ours-2", 0, 0],
  ["nobody that says so", "ours", undefined, 1, 0],
  ["some cluster, and we have no id", undefined, "ours", 0, 0],
  ["nobody that says so, and we have no id", undefined, undefined, 1, 0],
];

Deno.test("Orphans.check() deletes what this very cluster made when told to, tells of what may be anybody's, and no more", async () => {
  for (const [what, own, maker, told, deleted] of made) {
    for (const action of ["delete", "report"] as const) {
      const world = new World();
      world.volumes = [volume(idOf(1), maker)];
      await lookLong(world, world.orphans({ action, clusterId: own }));
      const expected = [told, action === "delete" ? deleted : 0];
      assertEquals([world.told.length, world.deleted.length], expected, `${what}, ${action}`);
      assertEquals(world.cleaned, expected[1]);
      assertEquals(world.goodbyes.length, expected[1]);
      assertEquals(world.gauge.get("disk"), (expected[0] ?? 0) - (expected[1] ?? 0));
    }
  }
});

Deno.test("Orphans.check() never deletes a file", async () => {
  const world = new World();
  world.strays = [stray(idOf(1))];
  await lookLong(world, world.orphans({ action: "delete" }));
  assertEquals([world.told.length, world.deleted.length], [1, 0]);
});

const lastMoments: [what: string, come: (world: World) => void][] = [
  ["a PV", (world) => world.handles.add(idOf(1))],
  ["no PVs", (world) => world.handles.clear()],
  ["no answer of the API", (world) => void (world.isApiAway = true)],
  ["an attachment", (world) => world.inUse.add(idOf(1))],
];

Deno.test("Orphans.check() asks anew right before it deletes, and then leaves what somebody wants", async () => {
  for (const [what, come] of lastMoments) {
    const world = new World();
    world.volumes = [volume(idOf(1), "ours")];
    const orphans = world.orphans({ action: "delete" });
    await lookTwice(world, orphans);
    let asked = 0;
    world.beforeHandles = () => ++asked === 2 && come(world);
    world.now += HOUR;
    await orphans.check(signal);
    assertEquals([asked, world.deleted], [2, []], what);
  }
});

Deno.test("Orphans.check() reads the row again right before it deletes: another cluster's, or none, stays", async () => {
  for (const then of [[], [volume(idOf(1), "theirs")], [volume(idOf(1))]]) {
    const world = new World();
    world.volumes = [volume(idOf(1), "ours")];
    const orphans = world.orphans({ action: "delete" });
    await lookTwice(world, orphans);
    world.beforeHandles = () => world.volumes = then;
    world.now += HOUR;
    await orphans.check(signal);
    assertEquals([world.deleted, world.cleaned], [[], 0]);
  }
});

Deno.test("Orphans.check() deletes nothing that it could not tell of, and tells again", async () => {
  const world = new World();
  world.volumes = [volume(idOf(1), "ours")];
  let calls = 0;
  const told = () => ++calls < 3 ? Promise.reject(new Error("no events today")) : Promise.resolve();
  const orphans = world.orphans({ action: "delete", told });
  await lookTwice(world, orphans);
  await orphans.check(signal);
  assertEquals([calls, world.deleted], [2, []]);
  await orphans.check(signal);
  assertEquals([calls, world.deleted], [3, []]);
  world.now += HOUR;
  await orphans.check(signal);
  assertEquals([calls, world.deleted], [3, [idOf(1)]]);
});

Deno.test("Orphans.check() ends when its caller leaves, and says so", async () => {
  const world = new World();
  world.volumes = [volume(idOf(1), "ours")];
  const caller = new AbortController();
  const handles = () => {
    caller.abort();
    return Promise.reject(new Error("aborted"));
  };
  await assertRejects(() => world.orphans({ handles }).check(caller.signal), Cancelled);
});

type Step =
  | { do: "pv" | "use"; volume: number; on: boolean }
  | { do: "plant"; volume: number }
  | { do: "api" | "routeros"; on: boolean }
  | { do: "wait"; time: number }
  | { do: "look" };

const clusters = ["ours", "theirs", undefined, "ours"];
const aVolume = fc.nat({ max: clusters.length - 1 });
const steps = fc.array(
  fc.oneof(
    fc.record({ do: fc.constantFrom("pv" as const, "use" as const), volume: aVolume, on: fc.boolean() }),
    fc.record({ do: fc.constant("plant" as const), volume: aVolume }),
    fc.record({ do: fc.constantFrom("api" as const, "routeros" as const), on: fc.boolean() }),
    fc.record({ do: fc.constant("wait" as const), time: fc.nat({ max: HOUR }) }),
    { weight: 6, arbitrary: fc.constant({ do: "look" as const }) },
  ),
  { maxLength: 60, size: "max" },
) as fc.Arbitrary<Step[]>;

/** Since when each volume is an orphan at every look that succeeded, and at how many: found out in another way. */
class Auditor {
  readonly #since = new Map<string, { at: number; looks: number }>();

  look(world: World): void {
    if (world.isApiAway || world.isRouterOsAway) return;
    clusters.forEach((cluster, number) => {
      const id = idOf(number);
      const isThere = world.volumes.some((volume) => volume.id === id);
      const isFree = isThere && cluster !== "theirs" && !world.handles.has(id) && !world.inUse.has(id);
      const { at, looks } = this.#since.get(id) ?? { at: world.now, looks: 0 };
      if (isFree) this.#since.set(id, { at, looks: looks + 1 });
      else this.#since.delete(id);
    });
  }

  forget(id: string): void {
    this.#since.delete(id);
  }

  check(id: string, now: number): void {
    const { at, looks } = this.#since.get(id) ?? { at: now, looks: 0 };
    assert(looks >= 2 && now - at >= HOUR, `${id}: told after ${looks} looks in ${now - at} ms`);
  }
}

Deno.test("Orphans: no order of events condemns what has a PV, is used, is another's or was seen for too short", async () => {
  let [told, deleted] = [0, 0];
  await fc.assert(
    fc.asyncProperty(steps, async (steps) => {
      const world = new World();
      const auditor = new Auditor();
      world.volumes = clusters.map((cluster, number) => volume(idOf(number), cluster));
      const orphans = world.orphans({
        action: "delete",
        told: ({ id }) => void (told++, auditor.check(id, world.now)),
      });
      for (const step of steps) {
        const id = "volume" in step ? idOf(step.volume) : "";
        if (step.do === "pv") world.handles[step.on ? "add" : "delete"](id);
        if (step.do === "use") world.inUse[step.on ? "add" : "delete"](id);
        if (step.do === "api") world.isApiAway = !step.on;
        if (step.do === "routeros") world.isRouterOsAway = !step.on;
        if (step.do === "wait") world.now += step.time;
        if (step.do === "plant" && !world.volumes.some((volume) => volume.id === id)) {
          world.volumes.push(volume(id, clusters[step.volume]));
        }
        if (step.do !== "look") continue;
        auditor.look(world);
        await orphans.check(signal);
        for (const id of world.deleted.splice(0)) {
          deleted++;
          auditor.check(id, world.now);
          auditor.forget(id);
          assert(clusters[parseInt(id.slice(4), 16)] === "ours", `${id} was not ours to delete`);
        }
      }
    }),
    { numRuns: 2000 },
  );
  assert(told > 100 && deleted > 100, `the histories were too dull: told ${told}, deleted ${deleted}`);
});

Deno.test("Volumes.inventory() shows our volumes and files without a disk, never snapshots, other names and other folders", async () => {
  const theirs = {
    type: "file",
    slot: "theirs",
    "file-path": `/${base}/${idOf(7)}.img`,
    "nvme-tcp-server-nqn": "nqn.other:x",
  };
  const bases = [base, "storage-pool/fast"] as [string, string];
  await using it = await routerOs({ simulator: { foreignDisks: [theirs] }, volumes: { bases, clusterId: "ours" } });
  const range = { required: GIB, limit: 0n };
  await it.volumes.create({ name: `pvc-${uuid}`, range, parameters: {} });
  const [ours, other] = [`${base}/${idOf(1)}.img`, `storage-pool/fast/pvc-${uuid}.img`];
  const left = [
    `${base}/snap-${uuid}.img`,
    `${base}/${idOf(1)}.img.bak`,
    `${base}/x${idOf(1)}.img`,
    `${base}/inner/${idOf(2)}.img`,
    `storage-pool/${idOf(3)}.img`,
    `storage-pool/metalXcsi/${idOf(3)}.img`,
    `${base}/pvc-123.img`,
    `${base}/pvc-${uuid.toUpperCase()}.img`,
  ];
  for (const file of [ours, other, ...left]) {
    const path = `${it.folder}/pool/${file.slice("storage-pool/".length)}`;
    await Deno.mkdir(path.slice(0, path.lastIndexOf("/")), { recursive: true });
    await Deno.writeTextFile(path, "data");
  }
  await Deno.mkdir(`${it.folder}/pool/metal-csi/${idOf(4)}.img`);
  const { lines } = it.simulator.state();
  const { volumes, strays } = await it.volumes.inventory();
  assertEquals(it.simulator.state().lines, lines + 1, "one round trip");
  assertEquals(volumes.map(({ id, comment }) => [id, comment]), [[short, "rds-csi cluster=ours"]]);
  assertEquals(strays.sort((a, b) => a.file < b.file ? 1 : -1), [
    { id: idOf(1), file: ours, size: 4n },
    { id: `pvc-${uuid}`, file: other, size: 4n },
  ]);
});

Deno.test("Volumes.inventory() fails where RouterOS fails, and never shows less for it", async () => {
  await using it = await routerOs();
  await it.volumes.create({ name: "a", range: { required: GIB, limit: 0n }, parameters: {} });
  for (const command of ["disk print", "file print"]) {
    it.simulator.faults.error("failure: flux", command);
    await assertRejects(() => it.volumes.inventory(), Error, "flux");
  }
  assertEquals((await it.volumes.inventory()).volumes.length, 1);
});

Deno.test("Orphans delete on RouterOS what this cluster made, and leave all else as it is", async () => {
  await using it = await routerOs({ volumes: { clusterId: "ours" } });
  const theirs = await it.another({ clusterId: "theirs" });
  const nobodys = await it.another({ clusterId: undefined });
  const make = async (volumes: typeof theirs, name: string) =>
    (await volumes.create({ name, range: { required: GIB, limit: 0n }, parameters: {} })).volume.id;
  const [mine, kept] = [await make(it.volumes, "mine"), await make(it.volumes, "kept")];
  const others = [await make(theirs, "theirs"), await make(nobodys, "nobody's")];
  await Deno.writeTextFile(`${it.folder}/pool/metal-csi/${idOf(1)}.img`, "data");
  const world = new World();
  world.handles.add(kept);
  const orphans = world.orphans({ volumes: it.volumes, action: "delete" });
  await orphans.check(signal);
  world.now = HOUR;
  await orphans.check(signal);
  world.now = 2 * HOUR;
  it.simulator.faults.busy("file remove");
  await orphans.check(signal);
  assertEquals(world.cleaned, 0, "its file was left");
  it.simulator.faults.clear();
  await orphans.check(signal);
  assertEquals([world.cleaned, world.gauge.get("disk")], [1, 1]);
  assertEquals(it.simulator.state().files.some(({ name }) => name === `${base}/${mine}.img`), false);
  const slots = it.simulator.state().disks.filter((row) => row["type"] === "file").map((row) => row["slot"]);
  assertEquals(slots.sort(), [kept, ...others].sort());
  assert(!slots.includes(mine));
  assertEquals(
    world.told.map(({ kind, id }) => [kind, id]).sort(),
    [
      ["disk", mine],
      ["disk", others[1]],
      ["file", idOf(1)],
    ].sort(),
  );
  assertEquals(await Deno.readTextFile(`${it.folder}/pool/metal-csi/${idOf(1)}.img`), "data");
});

Deno.test("sentenceOf() says how to be rid of an orphan, in commands that RouterOS takes", async () => {
  await using it = await routerOs();
  const { volume } = await it.volumes.create({ name: "a", range: { required: GIB, limit: 0n }, parameters: {} });
  const sentence = sentenceOf({ kind: "disk", ...volume, clusterId: undefined, claim: "shop/db" });
  assert(sentence.includes("shop/db"));
  const lines = [...sentence.matchAll(/'(\/.*?)'/g)].map(([, line]) => line as string);
  assertEquals(lines.length, 3);
  for (const line of lines) assertEquals(await it.simulator.run(line), "", line);
  assertEquals([it.simulator.state().files, it.simulator.state().exports], [[], []]);
});

Deno.test("Orphans.check() leaves a volume that is busy and goes on with the others, and tries again at the next look", async () => {
  const world = new World();
  world.volumes = [volume(idOf(1), "ours"), volume(idOf(2), "ours")];
  const asked: string[] = [];
  const volumes = {
    inventory: () => Promise.resolve({ volumes: world.volumes, strays: [] }),
    get: (id: string) => Promise.resolve(world.volumes.find((volume) => volume.id === id)),
    delete: (id: string) => {
      asked.push(id);
      if (asked.length < 2) return Promise.reject(new Busy("not now"));
      world.volumes = world.volumes.filter((volume) => volume.id !== id);
      return Promise.resolve();
    },
  };
  const orphans = world.orphans({ volumes, action: "delete" });
  await lookLong(world, orphans);
  assertEquals([asked, world.cleaned, world.gauge.get("disk")], [[idOf(1), idOf(2)], 1, 1]);
  await orphans.check(signal);
  assertEquals([asked, world.cleaned, world.gauge.get("disk")], [[idOf(1), idOf(2), idOf(1)], 2, 0]);
});
