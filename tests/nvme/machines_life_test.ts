import { assert, assertEquals } from "@std/assert";
import type { GuestProcess } from "../lab/machines/guest.ts";
import { patient } from "../lab/machines/patience.ts";
import {
  assertClean,
  attach,
  checksum,
  dataOf,
  deleteVolume,
  detach,
  down,
  GiB,
  type Kind,
  makeVolume,
  nodeOf,
  type Place,
  publish,
  refusal,
  scenarios,
  stage,
  unpublish,
  unstage,
  until,
  up,
  write,
} from "./machines_steps.ts";

const scenario = scenarios();
const kinds: readonly Kind[] = ["ext4", "xfs", "block"];

scenario("ext4, xfs and block volumes keep their data over a move from one node to the other", async (lab) => {
  const [a, b] = [nodeOf(lab), nodeOf(lab, 2)];
  const places = await Promise.all(kinds.map(async (kind) => await up(lab, await makeVolume(lab, kind), a)));
  const written = await Promise.all(places.map((place) => write(place)));
  await Promise.all(places.map((place) => down(lab, place)));
  await assertClean(a);
  const moved = await Promise.all(places.map((place) => up(lab, place, b)));
  assertEquals(await Promise.all(moved.map((place) => checksum(place))), written);
  await Promise.all(moved.map(async (place) => {
    await down(lab, place);
    await deleteVolume(lab, place);
  }));
  await assertClean(b);
  assertEquals((await lab.target.control({ op: "state" })).exports, []);
});

scenario("every step may be repeated: one session, one mount, one node", async (lab) => {
  const a = nodeOf(lab);
  await Promise.all((["ext4", "block"] as const).map(async (kind) => {
    const place = await up(lab, await makeVolume(lab, kind), a);
    await stage(place);
    await publish(place, "again");
    await publish(place, "again");
    await stage(place);
    assertEquals((await a.controllers()).filter(({ nqn }) => nqn === place.nqn).length, 1);
    if (kind === "ext4") {
      const mounts = await a.machine.guest.quick(`grep -c ' ${place.targetPath} ' /proc/1/mountinfo`);
      assertEquals(mounts, "1");
    }
    const again = { ...place, targetPath: place.targetPath.replace(/pod-\w+/, "again") };
    for (const each of [place, place, again, again]) await unpublish(each);
    await unstage(place);
    await unstage(place);
    await detach(lab, place);
    await deleteVolume(lab, place);
  }));
  await assertClean(a);
});

scenario("two nodes hold one shared block volume and write in turns; one leaves, and nothing is lost", async (lab) => {
  const volume = await makeVolume(lab, "block", { shared: true });
  const places = await Promise.all(lab.nodes.map((node) => up(lab, volume, node)));
  const [first, second] = places as [Place, Place];
  const line = (place: Place, at: number, text: string) =>
    place.node.machine.guest.sh(
      `printf %s '${text}' | dd of='${place.targetPath}' bs=4096 seek=${at} conv=sync,fsync oflag=direct status=none iflag=fullblock`,
    );
  const read = (place: Place, count: number) =>
    place.node.machine.guest.sh(
      `dd if='${place.targetPath}' bs=4096 count=${count} iflag=direct status=none | tr -d '\\0'`,
    );
  for (let turn = 0; turn < 6; turn++) await line(turn % 2 ? second : first, turn, `turn ${turn};`);
  const expected = "turn 0;turn 1;turn 2;turn 3;turn 4;turn 5;";
  assertEquals([await read(first, 6), await read(second, 6)], [expected, expected]);
  await down(lab, first);
  await line(second, 6, "turn 6;");
  assertEquals(await read(second, 7), `${expected}turn 6;`);
  await down(lab, second);
  await deleteVolume(lab, volume);
});

scenario("volumes grow while they are written to", async (lab) => {
  const a = nodeOf(lab);
  await Promise.all(kinds.map(async (kind) => {
    const place = await up(lab, await makeVolume(lab, kind), a);
    const before = kind === "block" ? "" : await write(place);
    const { guest } = a.machine;
    const path = kind === "block" ? place.targetPath : `${place.targetPath}/busy`;
    const busy = await a.machine.start(`busy-${kind}`, "sh", [
      "-c",
      `n=0; while [ ! -e /run/enough-${kind} ]; do dd if=/dev/zero of='${path}' bs=64k count=16 seek=$((n % 64 * 16)) conv=notrunc,fsync status=none || exit 1; n=$((n + 1)); done; echo "wrote $n"`,
    ]);
    using controller = lab.client();
    const capacityRange = { requiredBytes: BigInt(2 * GiB) };
    const { nodeExpansionRequired } = await controller.controllerExpandVolume({ volumeId: place.id, capacityRange });
    assert(nodeExpansionRequired);
    using node = a.client();
    const expanding = { volumeId: place.id, volumePath: place.targetPath, capacityRange };
    for (let times = 0; times < 2; times++) {
      const { capacityBytes } = await node.nodeExpandVolume(expanding);
      assertEquals(capacityBytes, BigInt(2 * GiB));
    }
    await guest.sh(`touch /run/enough-${kind}`);
    assertEquals(await busy.ended(), 0, busy.output);
    const size = kind === "block"
      ? await guest.sh(`blockdev --getsize64 '${place.targetPath}'`)
      : await guest.sh(`stat -f -c '%b %S' '${place.targetPath}' | { read b s; echo $((b * s)); }`);
    assert(Number(size) > 1.8 * GiB, `${kind} has ${size} bytes`);
    if (before) assertEquals(await checksum(place), before);
    await down(lab, place);
    await deleteVolume(lab, place);
  }));
});

scenario("a node dies while it writes: the other replays the journal, and what was synced is there", async (lab) => {
  const [a, b] = [nodeOf(lab), nodeOf(lab, 2)];
  const dying = await Promise.all((["ext4", "xfs"] as const).map(async (kind) => {
    const place = await up(lab, await makeVolume(lab, kind), a);
    return { place, written: await write(place), writer: await lineWriter(place) };
  }));
  for (const { writer } of dying) {
    await until("some lines to be synced", async () => await Promise.resolve(writer.find(/^20$/)));
  }
  await a.machine.powerOff();
  const powering = a.machine.powerOn();
  await Promise.all(dying.map(async ({ place, written, writer }) => {
    const synced = Number(writer.output.split("\n").filter((line) => /^\d+$/.test(line)).at(-1));
    await detach(lab, place);
    const moved = await up(lab, place, b);
    assertEquals(await checksum(moved), written);
    const lines = (await b.machine.guest.quick(`cat '${dataOf(moved, "log")}'`)).split("\n");
    assert(lines.length >= synced, `${synced} lines were synced and ${lines.length} are there`);
    assertEquals(lines.slice(0, synced), Array.from({ length: synced }, (_, n) => `line ${n + 1}`));
    await down(lab, moved);
    await deleteVolume(lab, place);
  }));
  for (const replayed of ["recovery complete", "Ending (clean )?recovery"]) {
    assert(await b.machine.guest.quick(`dmesg | grep -iE '${replayed}' | tail -n 1`), replayed);
  }
  await powering;
  await assertClean(a);
});

/** Writes lines, each synced before its number is told. */
async function lineWriter(place: Place): Promise<GuestProcess> {
  const log = dataOf(place, "log");
  return await place.node.machine.start(`writer-${place.kind}`, "bash", [
    "-c",
    `for n in $(seq 1 100000); do echo "line $n" >> '${log}'; sync -d '${log}'; : > '${
      dataOf(place, "empty")
    }-'$n; echo $n; done`,
  ]);
}

scenario("20 volumes staged at once, one of them on a dead address: the 19 finish", async (lab) => {
  const a = nodeOf(lab);
  const count = 20;
  const attached = await Promise.all(
    Array.from({ length: count }, async (_, n) => attach(lab, await makeVolume(lab, n % 4 ? "block" : "ext4"), a)),
  );
  const [dead, ...living] = attached;
  assert(dead);
  using node = a.client();
  const lost = refusal(() =>
    node.nodeStageVolume({
      volumeId: dead.id,
      stagingTargetPath: dead.stagingPath,
      volumeContext: dead.context,
      publishContext: { ...dead.publishContext, nvme_address: "10.77.0.99" },
      volumeCapability: { accessType: { case: "mount", value: { fsType: "ext4" } }, accessMode: { mode: 1 } },
    }, { deadline: patient(60_000) })
  );
  await Promise.all(living.map((each) => stage(each)));
  const { code, message } = await lost;
  assertEquals(code, "UNAVAILABLE");
  assert(message.includes("10.77.0.99:4420"), message);
  const live = (await a.controllers()).filter(({ state }) => state === "live");
  assertEquals(live.length, count - 1);
  await Promise.all(attached.map(async (each) => {
    await unstage(each);
    await detach(lab, each);
    await deleteVolume(lab, each);
  }));
  await assertClean(a);
});
