import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { PREFIX } from "../lab/driver.ts";
import { type Cluster, DRIVER } from "../lab/kubernetes/cluster.ts";
import * as objects from "../lab/kubernetes/objects.ts";
import type { Replica } from "../lab/kubernetes/replica.ts";
import { scenarios } from "./scenarios.ts";
import { attach, bound, diskOf, files, makeClaim, metricOf } from "./steps.ts";

const scenario = scenarios({
  replicas: 2,
  proxy: true,
  settings: { "orphan-check-interval": "1s", "orphan-grace-period": "3s", "lease-duration": "6s" },
});

const BASE = "storage-pool/metal-csi";

function idOf(number: number): string {
  return `pvc-${number.toString(16).padStart(28, "0")}`;
}

/** What lies on RouterOS before there is any PV. */
const plain = idOf(1);
const others = idOf(2);
const stray = idOf(3);
const ours = idOf(4);
const held = idOf(5);
const asked = "pvc-00000000-0000-0000-0000-000000000006";
/** The volume that a PV of this name would have. */
const askedId = idOf(0);
const late = idOf(7);
const untouched = [others, "snap-1", "photos", "elsewhere"];

/** Adds a disk that looks like a volume, where nothing else is said. */
async function plant(
  { simulator }: Cluster,
  slot: string,
  disk: { comment?: string; file?: string; nqn?: string } = {},
): Promise<void> {
  const { comment = "", file = `${BASE}/${slot}.img`, nqn = PREFIX + slot.replace("pvc-", "") } = disk;
  const place = `type=file file-path="/${file}" file-size=1G slot="${slot}" comment="${comment}"`;
  const shown = `nvme-tcp-export=yes nvme-tcp-server-port=4420 nvme-tcp-server-nqn="${nqn}"`;
  const output = await simulator.run(`/disk/add ${place} ${shown}`);
  assertEquals(output.trim().replace(/^\*?\w+$/, ""), "", `the disk ${slot} was not made: ${output}`);
}

/** Adds a disk and takes its row away: the file stays. */
async function leave(cluster: Cluster, id: string): Promise<void> {
  await plant(cluster, id);
  await cluster.simulator.run(`/disk/set [find where slot="${id}"] nvme-tcp-export=no`);
  await cluster.simulator.run(`/disk/remove [find where slot="${id}"]`);
}

async function ourComment({ kube }: Cluster, claim: string): Promise<string> {
  const { metadata } = await kube.get(objects.namespaces, { name: "kube-system" });
  return `rds-csi cluster=${metadata.uid} ${claim}`;
}

/** What has been told of orphans, for the administrator of the driver. */
async function told({ kube }: Cluster, reason: string): Promise<(objects.Event & { count?: number })[]> {
  const events = await kube.list(objects.events, "default");
  const about = ({ kind, name }: objects.Event["involvedObject"]) => kind === "CSIDriver" && name === DRIVER;
  return events.filter((event) => event.reason === reason && about(event.involvedObject));
}

/** The ids that are told of as orphans, each with how often. */
async function orphans(cluster: Cluster): Promise<Record<string, number>> {
  const events = await told(cluster, "OrphanDetected");
  const idIn = (text = "") => /(?:volume |metal-csi\/)(pvc-[0-9a-f-]+)/.exec(text)?.[1] ?? text;
  return Object.fromEntries(events.map(({ message, count }) => [idIn(message), count ?? 0]).sort());
}

/** Waits until the leader has looked so many times more: longer than the grace period with four. */
async function looks({ kube, simulator }: Cluster, count = 5): Promise<void> {
  const done = () => simulator.state().commands["file print"] ?? 0;
  const before = done();
  await kube.wait(`${count} looks`, () => done() >= before + count || undefined);
}

async function leads(replica: Replica): Promise<boolean> {
  return replica.isUp && await metricOf({ replica }, "leader") === 1;
}

async function leader({ kube, replicas }: Cluster): Promise<Replica> {
  return await kube.wait("a controller to lead", async () => {
    for (const replica of replicas) if (await leads(replica)) return replica;
    return undefined;
  });
}

scenario("while the API server shows no PV at all, nothing is an orphan", async (cluster) => {
  await plant(cluster, plain);
  await plant(cluster, others, { comment: "rds-csi cluster=another work/theirs" });
  await leave(cluster, stray);
  await plant(cluster, ours, { comment: await ourComment(cluster, "work/lost") });
  await plant(cluster, held, { comment: await ourComment(cluster, "work/held") });
  await plant(cluster, askedId, { comment: await ourComment(cluster, "work/asked") });
  await plant(cluster, "snap-1", { nqn: `${PREFIX}snap-1` });
  await plant(cluster, "photos", { nqn: "nqn.2000-02.com.mikrotik:photos" });
  await plant(cluster, "elsewhere", { file: `storage-pool/other/${idOf(9)}.img`, nqn: PREFIX + idOf(9).slice(4) });
  // Their PVs are gone, and their nodes may still have them, or get them.
  await attach(cluster, "held", { node: "node-a", volume: "gone" });
  const status = { attached: true, attachmentMetadata: { volume_id: held } };
  await cluster.kube.patch(objects.volumeAttachments, { name: "held" }, { status }, "status");
  await attach(cluster, "asked", { node: "node-a", volume: asked });

  await looks(cluster);
  assertEquals(await orphans(cluster), {});
  const { output } = await leader(cluster);
  assertMatch(output, /cannot be looked for now.*shows no PersistentVolume of this driver, which is no proof/);
  // Or none at all: a look at a RouterOS that is empty may have come first.
  assertEquals(await metricOf({ replica: await leader(cluster) }, "orphans", { kind: "disk" }) ?? 0, 0);
});

scenario(
  "disks and files without a PV are told of once, by one replica; what is not ours never is",
  async (cluster) => {
    await makeClaim(cluster, "wanted");
    const { id } = await bound(cluster, "wanted");
    const expected = { [plain]: 1, [stray]: 1, [ours]: 1 };
    await cluster.kube.wait(
      "all orphans to be told of",
      async () => Object.keys(await orphans(cluster)).length >= 3 || undefined,
    );
    await looks(cluster);
    assertEquals(await orphans(cluster), expected);
    assert(diskOf(cluster, id), "the volume that is wanted is gone");
    const [event] = await told(cluster, "OrphanDetected");
    assertEquals(event?.type, "Warning");
    const texts = (await told(cluster, "OrphanDetected")).map(({ message }) => message).join("\n");
    assertStringIncludes(
      texts,
      `the volume ${ours} on RouterOS, made for the claim work/lost, belongs to no PersistentVolume`,
    );
    assertStringIncludes(texts, `'/file/remove [find where name="${BASE}/${stray}.img"]'`);

    const replica = await leader(cluster);
    assertEquals(await metricOf({ replica }, "orphans", { kind: "disk" }), 2);
    assertEquals(await metricOf({ replica }, "orphans", { kind: "file" }), 1);
    const lines = replica.output.split("\n").filter((line) => line.includes("belongs to no"));
    assertEquals(lines.length, 3, lines.join("\n"));
    const [other] = cluster.replicas.filter((each) => each !== replica);
    assertEquals(await metricOf({ replica: other ?? replica }, "orphans", { kind: "disk" }), undefined);
    assert(!other?.output.includes("belongs to no"), "both replicas have told of it");
  },
);

scenario("a list of PVs that fails condemns nothing", async (cluster) => {
  const replica = await leader(cluster);
  const { proxy } = replica;
  proxy.answer(500, {
    times: Infinity,
    match: (method, path) => method === "GET" && path.endsWith("/persistentvolumes"),
  });
  try {
    await plant(cluster, late);
    await looks(cluster);
    assertEquals((await orphans(cluster))[late], undefined);
    assertEquals(await metricOf({ replica }, "orphans", { kind: "disk" }), 2);
  } finally {
    proxy.behave();
  }
  await cluster.kube.wait("it to be told of after all", async () => (await orphans(cluster))[late]);
});

scenario("when the leader dies the other replica goes on", async (cluster) => {
  const first = await leader(cluster);
  await first.crash();
  const second = await leader(cluster);
  assert(second !== first);
  const another = idOf(8);
  await plant(cluster, another);
  await cluster.kube.wait("the new orphan to be told of", async () => (await orphans(cluster))[another]);
  await cluster.simulator.run(`/disk/set [find where slot="${another}"] nvme-tcp-export=no`);
  await cluster.simulator.run(`/disk/remove [find where slot="${another}"]`);
  // What the first one has told is not told again.
  await looks(cluster);
  const all = Object.fromEntries([late, ours, plain, stray, another].map((id) => [id, 1]));
  assertEquals(await orphans(cluster), all);
  await second.crash();
});

scenario("with --orphans=delete only what this cluster made and nobody uses is deleted", async (cluster) => {
  const { replica, kube } = cluster;
  await replica.start({ orphans: "delete" });
  const there = [plain, late, held, askedId, ...untouched];
  await kube.wait("the disk of this cluster to go", () => diskOf(cluster, ours) === undefined || undefined);
  await looks(cluster);
  const [event, ...more] = await told(cluster, "OrphanCleaned");
  assertEquals(more, []);
  assertStringIncludes(event?.message ?? "", `the volume ${ours}, made for the claim work/lost, was deleted`);
  assertEquals(await metricOf(cluster, "orphans_cleaned_total"), 1);
  for (const slot of there) assertEquals(diskOf(cluster, slot)?.["nvme-tcp-export"], true, `${slot} was touched`);
  assert(!files(cluster).includes(`${BASE}/${ours}.img`), "its file is left");
  assert(files(cluster).includes(`${BASE}/${stray}.img`), "the file without a disk was deleted");

  // What kept it was its attachment alone.
  for (const name of ["held", "asked"]) {
    await kube.patch(objects.volumeAttachments, { name }, { metadata: { finalizers: null } }).catch(() => {});
    await kube.delete(objects.volumeAttachments, { name });
  }
  for (const id of [held, askedId]) {
    await kube.wait(`${id} to go`, () => diskOf(cluster, id) === undefined || undefined);
  }
  await looks(cluster);
  for (const slot of [plain, late, ...untouched]) assert(diskOf(cluster, slot), `${slot} was deleted`);
  assert(diskOf(cluster, (await bound(cluster, "wanted")).id), "the volume of a claim was deleted");
  await replica.crash();
});

scenario("with --orphans=off nobody looks", async (cluster) => {
  const { replica, kube, simulator } = cluster;
  const before = simulator.state().commands["file print"];
  const events = await orphans(cluster);
  await replica.start({ orphans: "off" });
  await leader(cluster);
  const lease = { name: "rds-csi-controller", namespace: "rds-csi" };
  const now = async () => Date.parse((await kube.get(objects.leases, lease)).spec?.renewTime ?? "");
  const start = await now();
  await kube.wait(
    "the controller to have led for longer than it takes to report",
    async () => await now() > start + 6000 || undefined,
  );
  assertEquals(simulator.state().commands["file print"], before);
  assertEquals(await orphans(cluster), events);
  assertEquals(await metricOf(cluster, "orphans", { kind: "disk" }), undefined);
});
