import { assert, assertEquals, assertMatch } from "@std/assert";
import { pause } from "../../src/runtime/deadline.ts";
import type { Machines } from "../lab/machines/machines.ts";
import { patient } from "../lab/machines/patience.ts";
import {
  checksum,
  conditionOf,
  deleteVolume,
  down,
  type Load,
  load,
  makeVolume,
  nodeOf,
  type Place,
  publish,
  refusal,
  scenarios,
  unpublish,
  until,
  up,
  write,
} from "./machines_steps.ts";

const scenario = scenarios({ nodes: 1, node: { "watch-interval": "2s" } });

/** Sessions notice soon that the server is away. */
const parameters = { keepAliveTmo: "2", reconnectDelay: "1" };

interface Loaded {
  place: Place;
  load: Load;
  written: string;
}

/** An ext4, an xfs and a block volume, each written to and read from. */
async function loaded(lab: Machines): Promise<Loaded[]> {
  const loading = (["ext4", "xfs", "block"] as const).map(async (kind) => {
    const place = await up(lab, await makeVolume(lab, kind, { parameters }), nodeOf(lab));
    const written = await write(place);
    return { place, written, load: await load(place) };
  });
  const all = await Promise.all(loading);
  await Promise.all(all.map((each) => each.load.goesOn()));
  return all;
}

/** What was away is back: sessions are live, and reading and writing go on. */
async function goesOn(all: readonly Loaded[]): Promise<void> {
  for (const { place } of all) await place.node.untilSession(place.nqn, "live", patient(90_000));
  await Promise.all(all.map(({ load }) => load.goesOn(patient(60_000))));
}

/** It goes on, no error was met, nothing is read-only, nothing is lost. */
async function assertUnharmed(lab: Machines, all: readonly Loaded[]): Promise<void> {
  await goesOn(all);
  await Promise.all(all.map(async ({ place, load, written }) => {
    await load.end();
    assertEquals(await conditionOf(place), { abnormal: false, message: "the NVMe session is live" });
    if (place.kind !== "block") {
      const mounts = await place.node.machine.guest.quick(`grep -F '${place.pv}' /proc/1/mountinfo`);
      assert(!/ ro[, ]/.test(mounts), mounts);
    }
    assertEquals(await checksum(place), written);
    await down(lab, place);
    await deleteVolume(lab, place);
  }));
}

scenario(
  "the link is away for 10 s, then for 60 s, under load: nothing is lost, no error reaches a program",
  async (lab) => {
    const all = await loaded(lab);
    const node = nodeOf(lab);
    for (const seconds of [10, 60]) {
      await node.machine.cutLink();
      const back = pause(seconds * 1000);
      for (const { place } of all) await node.untilSession(place.nqn, "connecting", patient(30_000));
      const before = all.map(({ load }) => load.rounds().writes);
      for (const { place } of all) {
        const { abnormal, message } = await conditionOf(place);
        assert(abnormal);
        assertMatch(message, /not live/);
      }
      await back;
      assertEquals(all.map(({ load }) => load.rounds().writes), before, "it is not away");
      await node.machine.restoreLink();
      await goesOn(all);
    }
    await assertUnharmed(lab, all);
  },
);

scenario(
  "the server is reset under load, then with its port up before its exports: nothing is lost, no error reaches a program",
  async (lab) => {
    const { target } = lab;
    const all = await loaded(lab);
    await target.machine.reset();
    await goesOn(all);
    const settings = target.settings;
    target.settings = { ...settings, guesses: "exportsBackAfter=6000" };
    await target.machine.reset();
    await assertUnharmed(lab, all);
    target.settings = settings;
    const refused = "dmesg | grep -cE 'Connect Invalid|rejected|Connect command failed' || true";
    assert(await nodeOf(lab).machine.guest.quick(refused) !== "0", "the port was never up before its exports");
  },
);

scenario("one volume's export is away: its calls are answered in time, and all other volumes go on", async (lab) => {
  const node = nodeOf(lab);
  const [lost, busy] = await loaded(lab).then(async ([ext4, xfs, block]) => {
    assert(ext4 && xfs && block);
    await block.load.end();
    await down(lab, block.place);
    await deleteVolume(lab, block.place);
    return [ext4, xfs] as const;
  });
  const second = await publish(lost.place, "second-pod");
  const exporting = (on: string) =>
    lab.target.routerOs(`/disk/set [find where slot="${lost.place.id}"] nvme-tcp-export=${on}`);
  await exporting("no");
  await node.untilSession(lost.place.nqn, "connecting");
  await until("the condition to tell it", async () => (await conditionOf(lost.place)).abnormal || undefined);
  // One of two mounts does not touch the device.
  await unpublish(second);
  using client = node.client();
  const volumeId = lost.place.id;
  const refused = await refusal(() =>
    client.nodeUnstageVolume({ volumeId, stagingTargetPath: lost.place.stagingPath }, { deadline: patient(20_000) })
  );
  assert(["UNAVAILABLE", "FAILED_PRECONDITION"].includes(refused.code), `${refused.code}: ${refused.message}`);
  await busy.load.goesOn();
  const other = await up(lab, await makeVolume(lab, "ext4", { parameters }), node);
  await down(lab, other);
  await deleteVolume(lab, other);
  await until(
    "the metrics to tell it",
    async () => /^rds_csi_nvme_sessions\{state="connecting"\} 1$/m.test(await node.metrics()) || undefined,
  );
  assertMatch(await node.metrics(), /^rds_csi_child_processes_stuck 0$/m);
  await exporting("yes");
  await assertUnharmed(lab, [lost, busy]);
});
