import { assertEquals, assertStringIncludes } from "@std/assert";
import { TestCluster } from "../../tests/nvme/cluster.ts";
import { TestNode } from "../../tests/nvme/node.ts";
import { testWith } from "../../tests/nvme/on_node.ts";
import { run } from "../../tests/nvme/stand_in.ts";
import { Deadline, poll } from "../runtime/deadline.ts";
import { KeyedLock } from "../runtime/keyed_lock.ts";
import { NodeMetrics } from "../runtime/node_metrics.ts";
import { unpublish } from "./publish.ts";
import { stage } from "./stage.ts";
import { unstage } from "./unstage.ts";
import { startWatching, Watcher } from "./watcher.ts";
import type { VolumeInput } from "./volume.ts";

const interval = 15_000;

/** A watched node, whose time goes on by one interval a look. */
async function watched() {
  const node = await TestNode.start({ connect: 2000, command: 2000 });
  const cluster = new TestCluster();
  node.parts = { ...node.parts, cluster };
  const metrics = new NodeMetrics("test");
  const lock = new KeyedLock();
  const guarded: string[] = [];
  const guard = <T>(id: string, what: string, work: () => Promise<T>) => {
    guarded.push(what);
    return lock.run(id, what, work);
  };
  const watcher = new Watcher(node.parts, { guard, metrics });
  let now = 0;
  const look = async (times = 1) => {
    for (let i = 0; i < times; i++) {
      await watcher.look(now);
      await watcher.settled();
      now += interval;
    }
  };
  const staged = async (kind: "ext4" | "block" = "ext4"): Promise<VolumeInput> => {
    const volume = await node.volume(kind);
    cluster.attach(volume, node.nqn(volume));
    await stage(node.parts, volume);
    return volume;
  };
  const giveUp = (volume: VolumeInput) => node.nvme("disconnect", "-n", node.nqn(volume));
  const reasons = () => cluster.told.map(({ reason }) => reason);
  return {
    node,
    cluster,
    reasons,
    metrics,
    lock,
    guarded,
    watcher,
    look,
    staged,
    giveUp,
    [Symbol.asyncDispose]: () => node[Symbol.asyncDispose](),
  };
}

const onWatched = testWith(watched);

interface Measure {
  get(): Promise<{ values: { value: number; labels: Partial<Record<string, string | number>> }[] }>;
}

/** Values by their label, or under `all`. */
async function values(measure: Measure): Promise<Record<string, number>> {
  const { values } = await measure.get();
  return Object.fromEntries(values.map(({ value, labels }) => [Object.values(labels)[0] ?? "all", value]));
}

onWatched(
  "Watcher tells once of a session that is not live for two looks, and how long it lasted when it is live again",
  async (here) => {
    const { node, cluster, metrics, look, reasons } = here;
    const volume = await here.staged();
    await here.staged("block");
    await look(2);
    assertEquals([await values(metrics.abnormalVolumes), await values(metrics.sessions)], [{}, { live: 2 }]);
    await node.setState(volume, "connecting");
    node.commands.started.length = 0;
    await look();
    assertEquals(cluster.told, [], "one look may be a moment's");
    assertEquals(await values(metrics.abnormalVolumes), { session_not_live: 1 });
    await look(5);
    assertEquals(reasons(), ["ConnectionFailure"]);
    assertStringIncludes(cluster.told[0]?.message ?? "", "connecting");
    assertEquals(await values(metrics.sessions), { connecting: 1, live: 1 });
    assertEquals(await values(metrics.connectionsActive), { all: 1 });
    await node.setState(volume, "live");
    await look(2);
    assertEquals(reasons(), ["ConnectionFailure", "ConnectionRecovery"]);
    assertStringIncludes(cluster.told[1]?.message ?? "", `${6 * interval / 1000} s`);
    assertEquals([await values(metrics.abnormalVolumes), await values(metrics.sessions)], [{}, { live: 2 }]);
    assertEquals(node.commands.started, [], "nothing but sysfs and mountinfo is read");
    await node.setState(volume, "connecting");
    await look(2);
    assertEquals(reasons().length, 3, "another outage is told anew");
    await node.setState(volume, "live");
  },
);

onWatched(
  "Watcher says nothing of a volume that is unstaged while its session was not live, but that it is gone",
  async (here) => {
    const { node, metrics, look, reasons } = here;
    const volume = await here.staged();
    await node.setState(volume, "connecting");
    await look(2);
    await node.setState(volume, "live");
    await unstage(node.parts, volume);
    await look(2);
    assertEquals(reasons(), ["ConnectionFailure"]);
    assertEquals([await values(metrics.abnormalVolumes), await values(metrics.sessions)], [{}, {}]);
  },
);

onWatched(
  "Watcher has a session and a staging mount made anew that the kernel gave up, and tells and counts it",
  async (here) => {
    const { node, cluster, metrics, look, reasons } = here;
    const volume = await here.staged();
    await Deno.writeTextFile(`${volume.stagingPath}/file`, "precious");
    await run("sync", "-f", volume.stagingPath);
    await here.giveUp(volume);
    await look();
    assertEquals([cluster.told, await node.sessions(volume)], [[], 0]);
    await look();
    assertEquals(reasons(), ["ConnectionFailure", "StaleMountDetected", "VolumeRecovered"]);
    assertEquals([await values(metrics.staleDetected), await values(metrics.staleRecoveries)], [{ all: 1 }, {
      success: 1,
    }]);
    await look(2);
    assertEquals(reasons().slice(3), ["ConnectionRecovery"]);
    assertEquals(await values(metrics.abnormalVolumes), {});
    assertEquals(await Deno.readTextFile(`${volume.stagingPath}/file`), "precious");
  },
);

onWatched(
  "Watcher only tells of a stale mount that a pod has, once, mends it when the pod is gone, and is in no call's way",
  async (here) => {
    const { node, cluster, metrics, look, reasons } = here;
    const volume = await node.volume("ext4");
    cluster.attach(volume, node.nqn(volume));
    const input = await node.up(volume, "pod");
    await here.giveUp(volume);
    await look(6); // 75 s: two attempts, a minute apart.
    assertEquals(here.guarded, ["recovery", "recovery"]);
    assertEquals(reasons(), ["ConnectionFailure", "StaleMountDetected", "ConnectionRecovery"]);
    assertStringIncludes(cluster.told[1]?.message ?? "", input.targetPath);
    assertEquals([await values(metrics.abnormalVolumes), await values(metrics.staleRecoveries)], [
      { stale_mount: 1 },
      {},
    ]);
    await unpublish(node.parts, input);
    await look(5);
    assertEquals(reasons().slice(3), ["VolumeRecovered"]);
    assertEquals(await values(metrics.abnormalVolumes), {});
  },
);

onWatched("Watcher has a session cleaned that it connected again when nobody needed it any more", async (here) => {
  const { node, cluster, look } = here;
  const [left, kept] = [await here.staged(), await here.staged()];
  await look(); // Both are judged, and needed.
  for (const volume of [left, kept]) await here.giveUp(volume);
  node.commands.instead = (_program, [first, ...args]) => {
    if (first === "connect" && args.includes(node.nqn(left))) cluster.detach(left); // It was attached a moment ago.
    return undefined;
  };
  await look(2);
  assertEquals([await node.sessions(left), await node.sessions(kept)], [1, 1]);
  await look(5);
  assertEquals([await node.sessions(left), await node.sessions(kept)], [0, 1]);
});

onWatched(
  "Watcher tells each kind of failed recovery once, counts all, and waits longer and longer between attempts",
  async (here) => {
    const { node, metrics, look, reasons } = here;
    const volume = await here.staged();
    await here.giveUp(volume);
    await node.server.withdraw(node.nqn(volume));
    const attempts = () => node.commands.started.filter((line) => line.startsWith("nvme connect")).length;
    const before = attempts();
    await look(8);
    assertEquals(reasons(), ["ConnectionFailure", "StaleMountDetected", "RecoveryFailed"]);
    assertEquals([attempts() - before, await values(metrics.staleRecoveries)], [3, { failure: 3 }]);
    await node.server.offer(node.nqn(volume), 2 ** 30);
    await look(8);
    assertEquals(reasons().slice(3), ["VolumeRecovered", "ConnectionRecovery"]);
  },
);

onWatched("Watcher mends nothing while a call of the volume is under way", async (here) => {
  const { node, look } = here;
  const volume = await here.staged();
  await here.giveUp(volume);
  await here.lock.run(volume.volumeId, "NodeStageVolume", () => look(3));
  assertEquals([await node.sessions(volume), await values(here.metrics.staleRecoveries)], [0, {}]);
  await look();
  assertEquals(await node.sessions(volume), 1);
});

onWatched("Watcher that cannot read sysfs or mountinfo takes nothing for well, and nothing for gone", async (here) => {
  const { node, metrics, look, reasons } = here;
  const volume = await here.staged();
  await node.setState(volume, "connecting");
  await look(2);
  const before = await metrics.text();
  const { sysfs } = node.standIn.roots;
  await Deno.rename(`${sysfs}/class`, `${sysfs}/away`);
  await look(3);
  await Deno.rename(`${sysfs}/away`, `${sysfs}/class`);
  assertEquals(await metrics.text(), before);
  await look(2);
  assertEquals(reasons(), ["ConnectionFailure"]);
  await node.setState(volume, "live");
});

onWatched("Watcher tells of a filesystem that the kernel has stopped as MountFailure", async (here) => {
  const { metrics, look, reasons } = here;
  const volume = await here.staged();
  await run("mount", "-o", "remount,abort", volume.stagingPath); // What errors=remount-ro does after an error.
  await Deno.writeTextFile(`${volume.stagingPath}/file`, "x").catch(() => {});
  await look(3);
  assertEquals(reasons(), ["MountFailure"]);
  assertEquals(await values(metrics.abnormalVolumes), { filesystem_stopped: 1 });
});

onWatched("Watcher does without Kubernetes", async (here) => {
  const { node, metrics } = here;
  const parts = { ...node.parts, cluster: undefined };
  const volume = await here.staged();
  await here.giveUp(volume);
  const watcher = new Watcher(parts, { guard: (_, __, work) => work(), metrics });
  for (const now of [0, 1, 2]) await watcher.look(now).then(() => watcher.settled());
  assertEquals([await node.sessions(volume), await values(metrics.staleRecoveries)], [1, { success: 1 }]);
});

onWatched("startWatching() looks again and again, also when it could not see, until close()", async (here) => {
  const { node, metrics } = here;
  const volume = await here.staged();
  const { sysfs } = node.standIn.roots;
  let blind = 0;
  const managed = node.parts.sysfs.managed.bind(node.parts.sysfs);
  node.parts.sysfs.managed = (...args) => {
    blind++;
    return managed(...args);
  };
  await Deno.rename(`${sysfs}/class`, `${sysfs}/away`);
  const watching = startWatching(node.parts, { guard: (_, __, work) => work(), metrics, interval: 1 });
  using deadline = new Deadline(20_000, "the watcher");
  const { signal } = deadline;
  await poll(() => blind > 2 || undefined, { signal });
  await Deno.rename(`${sysfs}/away`, `${sysfs}/class`);
  await here.giveUp(volume);
  await poll(async () => await node.sessions(volume) === 1 || undefined, { signal });
  await watching.close(); // What is left running then is a leak that the test's runner reports.
  assertEquals(await node.mountsAt(volume.stagingPath), 1);
});

onWatched("startWatching() lets the agent end although what it has begun does not", async (here) => {
  const { node, metrics } = here;
  await here.giveUp(await here.staged());
  const begun = Promise.withResolvers<void>();
  const guard = <T>() => {
    begun.resolve();
    return new Promise<T>(() => {});
  };
  const watching = startWatching(node.parts, { guard, metrics, interval: 1, patience: 1 });
  await begun.promise;
  await watching.close();
});
