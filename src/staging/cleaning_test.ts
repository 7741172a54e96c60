import { assert, assertEquals } from "@std/assert";
import { TestCluster } from "../../tests/nvme/cluster.ts";
import { TestNode } from "../../tests/nvme/node.ts";
import { testWith } from "../../tests/nvme/on_node.ts";
import { run, whyNoStandIn } from "../../tests/nvme/stand_in.ts";
import { Busy, Unreachable } from "../runtime/errors.ts";
import { betweenLooks, Cleaning } from "./cleaning.ts";
import { look } from "./condition.ts";
import { unpublish } from "./publish.ts";
import { stage } from "./stage.ts";
import type { VolumeInput } from "./volume.ts";

const ignore = await whyNoStandIn() !== undefined;
const foreign = "nqn.2000-02.com.mikrotik:nixos-var";

/** A node that was started again, with Kubernetes or without. */
async function restarted({ kubernetes = true } = {}) {
  const node = await TestNode.start({ connect: 10_000, command: 10_000 });
  const cluster = new TestCluster();
  node.parts = { ...node.parts, cluster: kubernetes ? cluster : undefined };
  let busy = false;
  const guard = <T>(_: string, __: string, work: () => Promise<T>): Promise<T> =>
    busy ? Promise.reject(new Busy("another call")) : work();
  const cleaning = new Cleaning(node.parts, { guard });
  return {
    ...{ node, cluster, cleaning },
    at: async (now: number) => await cleaning.look(await look(node.parts), now),
    setBusy: (value: boolean) => busy = value,
    note: async (volume: VolumeInput, change: { unstaging?: true }) => {
      const record = await node.parts.records.read(volume.volumeId);
      assert(record);
      await node.parts.records.write({ ...record, ...change });
    },
    [Symbol.asyncDispose]: () => node[Symbol.asyncDispose](),
  };
}

const onRestarted = testWith(() => restarted());

for (const kubernetes of [true, false]) {
  Deno.test({
    name: `Cleaning finishes what was being unstaged at the start, ${
      kubernetes ? "attached or not" : "without Kubernetes too"
    }`,
    ignore,
    async fn() {
      await using here = await restarted({ kubernetes });
      const { node, cluster, at } = here;
      const [begun, later, kept] = [await node.volume("ext4"), await node.volume("ext4"), await node.volume("block")];
      for (const volume of [begun, later, kept]) {
        await stage(node.parts, volume);
        cluster.attach(volume, node.nqn(volume));
      }
      await here.note(begun, { unstaging: true });
      here.setBusy(true);
      await at(0);
      assertEquals(await node.sessions(begun), 1, "a call of the volume is under way");
      here.setBusy(false);
      await here.note(later, { unstaging: true });
      for (const now of [1, betweenLooks, 3 * betweenLooks]) await at(now);
      assertEquals([await node.sessions(begun), await node.mountsAt(begun.stagingPath)], [0, 0]);
      assertEquals(await node.parts.records.read(begun.volumeId), undefined);
      assertEquals(
        [await node.sessions(later), await node.sessions(kept)],
        [1, 1],
        "what is begun now is the kubelet's to repeat",
      );
    },
  });
}

Deno.test({
  name: "Cleaning does not unstage what was staged again, nor what is in use, until it is not",
  ignore,
  async fn() {
    await using here = await restarted({ kubernetes: false });
    const { node, at } = here;
    const [again, used] = [await node.volume("ext4"), await node.volume("ext4")];
    await stage(node.parts, again);
    const input = await node.up(used, "pod");
    await here.note(again, { unstaging: true });
    await here.note(used, { unstaging: true });
    here.setBusy(true);
    await at(0);
    here.setBusy(false);
    await stage(node.parts, again);
    await at(1);
    assertEquals([await node.sessions(again), await node.sessions(used)], [1, 1]);
    await unpublish(node.parts, input);
    await at(2);
    assertEquals([await node.sessions(again), await node.sessions(used)], [1, 0]);
  },
});

onRestarted(
  "Cleaning ends sessions found at the start that are neither attached nor used, seen twice 30 s apart, and no other",
  async (here) => {
    const { node, cluster, at } = here;
    const [mounted, unknown, attached] = [
      await node.volume("ext4"),
      await node.volume("block"),
      await node.volume("ext4"),
    ];
    for (const volume of [mounted, unknown, attached]) await stage(node.parts, volume);
    await node.parts.records.remove(unknown.volumeId); // As another driver leaves it.
    cluster.attach(attached, undefined);
    await node.server.offer(foreign, 2 ** 26);
    await node.nvme("connect", "-t", "tcp", "-a", "127.0.0.1", "-s", String(node.server.port), "-n", foreign);
    await at(0);
    const later = await node.volume("ext4");
    await stage(node.parts, later); // Staged since, whatever Kubernetes says.
    await at(betweenLooks - 1);
    assertEquals([await node.sessions(mounted), await node.sessions(unknown)], [1, 1]);
    cluster.attachments = cluster.attachments.slice(1);
    for (const now of [betweenLooks, 3 * betweenLooks, 5 * betweenLooks]) await at(now);
    assertEquals([await node.sessions(mounted), await node.mountsAt(mounted.stagingPath)], [0, 0]);
    assertEquals([await node.sessions(unknown), await node.parts.records.read(mounted.volumeId)], [0, undefined]);
    assertEquals(
      [await node.sessions(attached), await node.sessions(later)],
      [1, 1],
      "attached at the start, and later",
    );
    assert(await node.parts.sysfs.session(foreign));
    assertEquals(here.cleaning.strangers, 0);
  },
);

onRestarted("Cleaning begins to count anew when a session was seen attached in between", async (here) => {
  const { node, cluster, at } = here;
  const volume = await node.volume("ext4");
  await stage(node.parts, volume);
  await at(0);
  cluster.attach(volume, node.nqn(volume));
  await at(betweenLooks);
  cluster.attachments = [];
  await at(2 * betweenLooks);
  await at(4 * betweenLooks);
  assertEquals(await node.sessions(volume), 1);
});

Deno.test({
  name: "Cleaning looks again under the guard: what was attached or used in that moment stays",
  ignore,
  async fn() {
    for (const change of ["attached", "used"] as const) {
      await using here = await restarted();
      const { node, cluster } = here;
      const volume = await node.volume("ext4");
      await stage(node.parts, volume);
      const guard = async <T>(_: string, __: string, work: () => Promise<T>): Promise<T> => {
        if (change === "attached") cluster.attach(volume, node.nqn(volume));
        else await run("mount", "--bind", volume.stagingPath, await Deno.makeTempDir({ dir: node.standIn.folder }));
        return await work();
      };
      const cleaning = new Cleaning(node.parts, { guard });
      for (const now of [0, betweenLooks]) await cleaning.look(await look(node.parts), now);
      assertEquals(await node.sessions(volume), 1, change);
    }
  },
});

onRestarted(
  "Cleaning leaves a session alone that is used though it is not attached, by a mount or a device node, and counts it",
  async (here) => {
    const { node, at } = here;
    const [mounted, published] = [await node.volume("ext4"), await node.volume("block")];
    await node.up(mounted, "pod");
    await node.up(published, "disk");
    for (const now of [0, betweenLooks, 2 * betweenLooks]) await at(now);
    assertEquals([await node.sessions(mounted), await node.sessions(published)], [1, 1]);
    assertEquals(here.cleaning.strangers, 2);
    await node.nvme("disconnect", "-n", node.nqn(published));
    await at(3 * betweenLooks);
    assertEquals(here.cleaning.strangers, 1);
  },
);

onRestarted(
  "Cleaning leaves a session alone whose device somebody holds unseen, with a record or without",
  async (here) => {
    const { node, at } = here;
    const [noted, unknown] = [await node.volume("block"), await node.volume("block")];
    for (const volume of [noted, unknown]) await stage(node.parts, volume);
    await node.parts.records.remove(unknown.volumeId);
    node.commands.instead = (program) => program === "mke2fs" ? { code: 1, stdout: "", stderr: "in use" } : undefined;
    for (const now of [0, betweenLooks]) await at(now);
    node.commands.instead = () => undefined;
    for (const now of [2 * betweenLooks, 4 * betweenLooks]) await at(now);
    assertEquals([await node.sessions(noted), await node.sessions(unknown), here.cleaning.strangers], [1, 1, 2]);
  },
);

Deno.test({
  name: "Cleaning concludes nothing while the API server is away, nor without Kubernetes",
  ignore,
  async fn() {
    for (const kubernetes of [true, false]) {
      await using here = await restarted({ kubernetes });
      const { node, cluster, at } = here;
      const [volume, dead] = [await node.volume("ext4"), await node.volume("block")];
      for (const each of [volume, dead]) await stage(node.parts, each);
      await node.setState(dead, "connecting");
      cluster.failure = new Unreachable("away");
      for (const now of [0, betweenLooks, 2 * betweenLooks]) await at(now);
      assertEquals([await node.sessions(volume), await node.sessions(dead)], [1, 1]);
      cluster.failure = undefined;
      for (const now of [3 * betweenLooks, 4 * betweenLooks]) await at(now);
      const left = kubernetes ? 0 : 1;
      assertEquals([await node.sessions(volume), await node.sessions(dead)], [left, left]);
    }
  },
});

onRestarted(
  "Cleaning lets a session go that died at any time, once it is twice seen not to be attached under its NQN",
  async (here) => {
    const { node, cluster, at } = here;
    await at(0);
    const [gone, moved, kept, untold] = await Promise.all([1, 2, 3, 4].map(() => node.volume("ext4")));
    assert(gone && moved && kept && untold);
    for (const volume of [gone, moved, kept, untold]) {
      await stage(node.parts, volume);
      await node.setState(volume, "connecting");
    }
    cluster.attach(moved, `${node.nqn(moved)}.g1`);
    cluster.attach(kept, node.nqn(kept));
    cluster.attach(untold, undefined);
    await at(1);
    await at(betweenLooks);
    assertEquals(await Promise.all([gone, moved, kept, untold].map((each) => node.sessions(each))), [1, 1, 1, 1]);
    await at(1 + betweenLooks);
    assertEquals(await Promise.all([gone, moved, kept, untold].map((each) => node.sessions(each))), [0, 0, 1, 1]);
    assertEquals(await node.mountsAt(gone.stagingPath), 0);
    assertEquals(cluster.told.map(({ reason }) => reason), ["SessionLetGo", "SessionLetGo"]);
    for (const each of [kept, untold]) await node.setState(each, "live");
  },
);

onRestarted(
  "Cleaning takes the mounts of a session that was let go, also those that were busy at first",
  async (here) => {
    const { node, cluster, at } = here;
    await at(0);
    const volume = await node.volume("ext4");
    await stage(node.parts, volume);
    await node.setState(volume, "connecting");
    node.commands.instead = (program) =>
      program === "umount" ? { code: 32, stdout: "", stderr: "target is busy" } : undefined;
    for (const now of [1, 1 + betweenLooks, 2 + betweenLooks]) await at(now);
    assertEquals([await node.sessions(volume), await node.mountsAt(volume.stagingPath)], [0, 1]);
    assertEquals(cluster.told.map(({ reason }) => reason), ["SessionLetGo"]);
    node.commands.instead = () => undefined;
    await at(3 + betweenLooks);
    assertEquals(await node.mountsAt(volume.stagingPath), 0);
    assertEquals(await node.parts.records.read(volume.volumeId), undefined);
  },
);

onRestarted("Cleaning lets no session go that is alive again before the second look", async (here) => {
  const { node, at } = here;
  await at(0);
  const volume = await node.volume("ext4");
  await stage(node.parts, volume);
  for (
    const [now, state] of [[1, "connecting"], [20_000, "live"], [40_000, "connecting"], [
      60_000,
      "connecting",
    ]] as const
  ) {
    await node.setState(volume, state);
    await at(now);
  }
  assertEquals(await node.sessions(volume), 1);
  await node.setState(volume, "live");
});

onRestarted(
  "Cleaning asks Kubernetes nothing while all sessions are live and judged, and after a failure not at each look",
  async (here) => {
    const { node, cluster, at } = here;
    const volume = await node.volume("ext4");
    await stage(node.parts, volume);
    cluster.attach(volume, node.nqn(volume));
    await at(0);
    let asked = 0;
    cluster.attachmentsHere = () => Promise.reject(new Error(`asked ${++asked} times`));
    for (const now of [1, betweenLooks, 2 * betweenLooks]) await at(now);
    assertEquals(asked, 0);
    await node.setState(volume, "connecting");
    for (const now of [0, 1, betweenLooks - 1]) await at(3 * betweenLooks + now);
    assertEquals(asked, 1);
    await node.setState(volume, "live");
  },
);

const hour = 3_600_000;

/** Seconds from one question to the next while the node looks every 15 s for an hour. */
async function pausesOf(here: Awaited<ReturnType<typeof restarted>>, from = 0): Promise<number[]> {
  const { cluster, at } = here;
  const asked: number[] = [];
  const { attachmentsHere } = cluster;
  for (let now = from; now < from + hour; now += 15_000) {
    cluster.attachmentsHere = () => {
      asked.push(now);
      return attachmentsHere.call(cluster);
    };
    await at(now);
  }
  cluster.attachmentsHere = attachmentsHere;
  return asked.slice(1).map((time, index) => (time - (asked[index] ?? 0)) / 1000);
}

onRestarted(
  "Cleaning asks less and less often during an outage of the storage server, at last every five minutes",
  async (here) => {
    const { node, cluster } = here;
    for (const volume of [await node.volume("ext4"), await node.volume("block")]) {
      await stage(node.parts, volume);
      cluster.attach(volume, node.nqn(volume));
      await node.setState(volume, "connecting");
    }
    const pauses = await pausesOf(here);
    assertEquals(pauses, [60, 120, 240, ...Array(pauses.length - 3).fill(300)]);
    cluster.failure = new Unreachable("away, too");
    assertEquals(new Set(await pausesOf(here, hour)), new Set([300]));
  },
);

onRestarted(
  "Cleaning asks every 30 s while the server serves another volume, and soon when what is dead changes",
  async (here) => {
    const { node, cluster, at } = here;
    const [fenced, live, late] = [await node.volume("ext4"), await node.volume("ext4"), await node.volume("ext4")];
    for (const volume of [fenced, live, late]) {
      await stage(node.parts, volume);
      cluster.attach(volume, node.nqn(volume));
    }
    await node.setState(fenced, "connecting");
    assertEquals(new Set(await pausesOf(here)), new Set([30]));
    for (const volume of [live, late]) await node.setState(volume, "connecting");
    await pausesOf(here, hour);
    await node.nvme("disconnect", "-n", node.nqn(late));
    cluster.detach(fenced);
    for (const now of [1, betweenLooks + 1]) await at(2 * hour + now);
    assertEquals([await node.sessions(fenced), await node.sessions(live)], [0, 1]);
  },
);

onRestarted(
  "Cleaning tells once, on the claim, that pods keep a session from being let go that never comes back",
  async (here) => {
    const { node, cluster, at } = here;
    await at(0);
    const volume = await node.volume("ext4");
    const pod = await node.up(volume, "pod");
    await node.setState(volume, "connecting");
    cluster.attach(volume, `${node.nqn(volume)}.g1`);
    for (const now of [1, 2, 3, 4, 5]) await at(now * betweenLooks);
    const told = cluster.told.map(({ reason, message }) => [reason, message.includes(pod.targetPath)]);
    assertEquals([told, await node.sessions(volume)], [[["ConnectionFailure", true]], 1]);
    await node.setState(volume, "live");
  },
);
