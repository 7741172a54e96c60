import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { RESET } from "../../src/kube/objects.ts";
import { pause } from "../../src/runtime/deadline.ts";
import { letGoAnnotation } from "../../src/staging/dead_sessions.ts";
import { addNode, eventOf, reasonsOf, removeNode, setReady } from "../kubernetes/steps.ts";
import * as objects from "../lab/kubernetes/objects.ts";
import type { Settings } from "../lab/machines/driver_in_guest.ts";
import { patient } from "../lab/machines/patience.ts";
import {
  attachTo,
  claimed,
  clusterScenarios,
  connectByHand,
  detachFrom,
  deviceOf,
  figureOf,
  hostsOf,
  makePod,
  nothing,
  refusals,
  removed,
  removePod,
  takenFrom,
  tracesOf,
  untilClean,
  upOn,
  workOnDevice,
  writer,
} from "./machines_cluster.ts";
import {
  checksum,
  dataOf,
  nodeRequest,
  placeOf,
  publish,
  refusal,
  stage,
  unpublish,
  unstage,
  until,
  write,
} from "./machines_steps.ts";

const scenario = clusterScenarios({ "watch-interval": "1s" });

scenario(
  "a node that is cut off and still writing is fenced; its queued writes go nowhere, and back again it gets clean by itself",
  async (cluster) => {
    const [lost, next] = cluster.nodes;
    const volumes = [await claimed(cluster, "fenced-fs", "ext4"), await claimed(cluster, "fenced-block", "block")];
    const before = await Promise.all(volumes.map((volume) => upOn(cluster, volume, { node: lost })));
    await Promise.all(before.map((place) => write(place)));
    const writers =
      (await Promise.all(before.map((place) => Promise.all([writer(place, "synced"), writer(place, "buffered")]))))
        .flat();
    for (const each of writers) await until("rounds of writing", () => Promise.resolve(each.find(/^round 5$/)));

    const [files, disk] = before;
    assert(files && disk);
    const holder = await lost.machine.start("holder", "bash", [
      "-c",
      `exec 3>'${dataOf(files, "held")}'; echo open; sleep 1000`,
    ]);
    await until("the file to be open", () => Promise.resolve(holder.find(/open/)));

    // Nobody hears of it any more, and it hears of nobody.
    await cluster.apiOf(lost).cut();
    await lost.machine.cutLink();
    try {
      for (const { nqn } of before) await lost.untilSession(nqn, "connecting", patient(60_000));
      await setReady(cluster, lost.name, false);
      const after = await Promise.all(before.map(async (place) => {
        await detachFrom(cluster, place, lost);
        return await upOn(cluster, place, { node: next });
      }));
      assertEquals(after.map(({ nqn }) => nqn), before.map(({ nqn }) => `${nqn}.g1`));
      const written = await Promise.all(after.map((place) => write(place)));

      // Its kernel tries to deliver what it holds, and is refused.
      const already = await refusals(lost);
      await lost.machine.restoreLink();
      const states = new Set<string>();
      await until("the kernel to be refused again and again", async () => {
        for (const { nqn, state } of await lost.controllers()) {
          if (before.some((place) => place.nqn === nqn)) states.add(state);
        }
        return await refusals(lost) >= already + 10 || undefined;
      });
      assertEquals([...states], ["connecting"]);
      for (const each of writers) assertEquals((await each.state()).running, true, each.output);
      assertEquals(await Promise.all(after.map((place) => checksum(place))), written);

      cluster.apiOf(lost).restore();
      await setReady(cluster, lost.name, true);
      await untilClean(disk);
      await lost.untilSession(files.nqn, "gone");
      // A program that does not end at its errors: what it holds goes when it does.
      assertEquals((await tracesOf(lost, files, files.nqn)).record?.unstaging, true);
      await holder.kill("SIGKILL");
      await untilClean(files);
      for (const { claim } of volumes) {
        const event = await eventOf(cluster, claim, `node ${lost.name} ended the NVMe session`);
        assertEquals([event.reason, event.type], ["SessionLetGo", "Warning"]);
        await eventOf(cluster, claim, "was cut off from the volume");
      }
      for (const each of writers) assertEquals(await each.ended(), 1, each.output);
      assertEquals(await figureOf(lost, "child_processes_stuck"), 0);

      const other = await claimed(cluster, "after-the-fence", "ext4");
      const place = await upOn(cluster, other, { node: lost });
      await unpublish(place);
      await takenFrom(cluster, place);
      await removed(cluster, [other]);

      assertEquals(await Promise.all(after.map((place) => checksum(place))), written);
      for (const place of after) {
        await unpublish(place);
        await takenFrom(cluster, place);
      }
      await removed(cluster, volumes);
    } finally {
      cluster.apiOf(lost).restore();
      await lost.machine.restoreLink();
      await setReady(cluster, lost.name, true);
    }
  },
);

scenario("unstage takes the mounts of pods that are gone, and waits for the pod that is here", async (cluster) => {
  const [node, elsewhere] = cluster.nodes;
  const volume = await claimed(cluster, "forgotten", "ext4");
  const pod = await makePod(cluster, "here", node);
  const place = await upOn(cluster, volume, { node, pod });
  const written = await write(place);
  // One that nobody has, and one that another node has: both are gone from here.
  const gone = [crypto.randomUUID(), await makePod(cluster, "there", elsewhere)].map((uid) =>
    placeOf(place, uid).targetPath.replace("/volumes/", "/volume-subpaths/")
  );
  for (const path of gone) {
    await node.machine.guest.sh(`mkdir -p '${path}'; mount --bind '${place.stagingPath}' '${path}'`);
  }
  using client = node.client();
  const { code, message } = await refusal(() =>
    client.nodeUnstageVolume({ volumeId: volume.id, stagingTargetPath: place.stagingPath })
  );
  assertEquals(code, "FAILED_PRECONDITION");
  assertStringIncludes(message, place.targetPath);
  for (const path of gone) assert(!message.includes(path), message);
  const all = [place.stagingPath, place.targetPath, ...gone].sort();
  assertEquals((await tracesOf(node, volume, place.nqn)).mounts.sort(), all);

  await removePod(cluster, "here");
  await unstage(place);
  assertEquals(await tracesOf(node, volume, place.nqn), nothing);
  // Nothing but mounts went.
  await stage(place);
  const again = await publish(place, crypto.randomUUID());
  assertEquals(await checksum(again), written);
  await unpublish(again);
  await takenFrom(cluster, again);
  await removePod(cluster, "there");
  await removed(cluster, [volume]);
});

scenario("a node that starts ends only what nobody needs, and nothing while it cannot ask", async (cluster) => {
  const [node] = cluster.nodes;
  const { machine: { guest } } = node;
  const [begun, orphan, migrated] = await Promise.all([
    claimed(cluster, "begun", "ext4"),
    claimed(cluster, "orphan", "ext4"),
    claimed(cluster, "migrated", "block"),
  ]);
  // Unstaging has begun, and the agent is killed before it comes to its end.
  const place = await upOn(cluster, begun, { node });
  await unpublish(place);
  const holder = await node.machine.start("holder", "bash", [
    "-c",
    `exec 3>'${place.stagingPath}/open'; echo open; sleep 1000`,
  ]);
  await until("the file to be open", () => Promise.resolve(holder.find(/open/)));
  using client = node.client();
  const busy = await refusal(() =>
    client.nodeUnstageVolume({ volumeId: begun.id, stagingTargetPath: place.stagingPath })
  );
  assertEquals(busy.code, "FAILED_PRECONDITION");
  await node.killAgent("SIGKILL");
  assertEquals((await tracesOf(node, begun, place.nqn)).record?.unstaging, true);
  await holder.kill("SIGKILL");
  await holder.ended();
  // What the Go driver left: a device that QEMU has open, without record, and a session that nobody has a use for.
  const old = await attachTo(cluster, migrated, node);
  const lonely = await attachTo(cluster, orphan, node);
  await detachFrom(cluster, orphan, node);
  const foreign = await cluster.machines.target.foreignExport();
  for (const nqn of [old.nqn, lonely.nqn, foreign]) await connectByHand(node, nqn);
  const disk = await deviceOf(node, old.nqn);
  const qemu = await node.machine.start("qemu", "bash", [
    "-c",
    `exec 3<>'${disk}'; echo open; while sleep 0.2; do echo beat | dd bs=512 conv=sync status=none >&3 || exit 1; done`,
  ]);
  await until("the device to be open", () => Promise.resolve(qemu.find(/open/)));
  const live = async () =>
    (await node.controllers()).filter(({ state }) => state === "live").map(({ nqn }) => nqn).sort();

  const proxy = cluster.apiOf(node);
  const asked = () => proxy.count("GET", /\/volumeattachments$/);
  await proxy.cut();
  try {
    await node.startAgent();
    await untilClean(place);
    await until("the node to have asked in vain", () => Promise.resolve(node.agent.find(/cleaning is tried again/)));
    assertEquals(await live(), [old.nqn, lonely.nqn, foreign].sort());
  } finally {
    proxy.resetCounts();
    proxy.restore();
  }
  await until("the node to be answered", () => Promise.resolve(asked() > 0 || undefined));
  const first = performance.now();
  assertEquals(await live(), [old.nqn, lonely.nqn, foreign].sort());
  await node.untilSession(lonely.nqn, "gone", patient(120_000));
  assert(performance.now() - first > 29_000, "it was ended after one look");
  assert(asked() >= 2);
  await pause(3000); // Some looks more.
  assertEquals(await live(), [old.nqn, foreign].sort());
  assertEquals((await qemu.state()).running, true, qemu.output);

  await qemu.kill("SIGKILL");
  await qemu.ended();
  await unstage(old);
  assertEquals(await live(), [foreign]);
  await guest.sh(`nvme disconnect -n ${foreign} >&2`);
  for (const volume of [begun, migrated]) await detachFrom(cluster, volume, node);
  await removed(cluster, [begun, orphan, migrated]);
});

scenario("a session that is dead for good is let go when an administrator says so", async (cluster) => {
  const [node] = cluster.nodes;
  const volume = await claimed(cluster, "given-up", "ext4");
  const place = await upOn(cluster, volume, { node });
  await node.machine.guest.sh(`dd if=/dev/zero of='${dataOf(place)}' bs=1M count=4 status=none`);
  await unpublish(place);
  const exporting = (on: string) =>
    cluster.machines.target.routerOs(`/disk/set [find where slot="${volume.id}"] nvme-tcp-export=${on}`);
  await exporting("no");
  await node.untilSession(place.nqn, "connecting");
  using client = node.client();
  const { code, message } = await refusal(() =>
    client.nodeUnstageVolume({ volumeId: volume.id, stagingTargetPath: place.stagingPath }, {
      deadline: patient(30_000),
    })
  );
  assertEquals(code, "UNAVAILABLE");
  assertMatch(message, /not attached to this node.*newer generation.*an administrator says so/s);
  const command = `kubectl annotate pv ${volume.pv} ${letGoAnnotation}=${node.name}`;
  assertStringIncludes(message, command);
  // Another node's name lets nothing go here.
  const annotate = (value: string) =>
    cluster.kube.patch(objects.persistentVolumes, { name: volume.pv }, {
      metadata: { annotations: { [letGoAnnotation]: value } },
    });
  await annotate("node2");
  const again = await refusal(() =>
    client.nodeUnstageVolume({ volumeId: volume.id, stagingTargetPath: place.stagingPath }, {
      deadline: patient(30_000),
    })
  );
  assertEquals(again.code, "UNAVAILABLE");
  await annotate(node.name);
  await unstage(place);
  assertEquals(await tracesOf(node, volume, place.nqn), nothing);
  const event = await eventOf(cluster, volume.claim, letGoAnnotation);
  assertEquals(event.reason, "SessionLetGo");
  assertEquals(await figureOf(node, "child_processes_stuck"), 0);
  await exporting("yes");
  await detachFrom(cluster, volume, node);
  await removed(cluster, [volume]);
});

scenario("a cut link and its end are told on the claim and by the metrics", async (cluster) => {
  const [node] = cluster.nodes;
  const volume = await claimed(cluster, "flaky", "ext4");
  const place = await upOn(cluster, volume, { node });
  const is = (name: string, value: number | undefined) =>
    until(`${name} to be ${value}`, async () => await figureOf(node, name) === value || undefined);
  await is("nvme_connections_active", 1);
  await node.machine.cutLink();
  try {
    await is('nvme_sessions{state="connecting"}', 1);
    await is('abnormal_volumes{reason="session_not_live"}', 1);
    await is("nvme_connections_active", 0);
    const failure = await eventOf(cluster, volume.claim, "is not live");
    assertEquals([failure.reason, failure.type], ["ConnectionFailure", "Warning"]);
  } finally {
    await node.machine.restoreLink();
  }
  const recovery = await eventOf(cluster, volume.claim, "is live again");
  assertEquals([recovery.reason, recovery.type], ["ConnectionRecovery", "Normal"]);
  await is('nvme_sessions{state="live"}', 1);
  await is('abnormal_volumes{reason="session_not_live"}', undefined);
  await unpublish(place);
  await takenFrom(cluster, place);
  await removed(cluster, [volume]);
});

scenario("a broken filesystem opens the breaker of its volume alone, until it is mended and reset", async (cluster) => {
  const [node] = cluster.nodes;
  const volume = await claimed(cluster, "broken", "ext4");
  const place = await upOn(cluster, volume, { node });
  const written = await write(place);
  await unpublish(place);
  await unstage(place);
  const byHand = (script: string) => workOnDevice(place, script);
  // The descriptors of all groups: neither the kernel nor e2fsck can use the filesystem as it is.
  const sum = "dd if=DEVICE bs=1M count=16 iflag=direct status=none | sha256sum";
  const broken = await byHand(
    `yes broken | head -c 4096 | dd of=DEVICE bs=4096 seek=1 oflag=direct status=none; ${sum}`,
  );
  const opened = await figureOf(node, "circuit_breaker_opened_total") ?? 0;
  using client = node.client();
  const staging = () => refusal(() => client.nodeStageVolume(nodeRequest(place), { deadline: patient(120_000) }));
  for (let times = 0; times < 3; times++) {
    const { code, message } = await staging();
    assertEquals(code, "FAILED_PRECONDITION", message);
    assertMatch(message, /e2fsck/);
  }
  const refused = await staging();
  assertEquals(refused.code, "UNAVAILABLE");
  assertMatch(refused.message, /failed 3 times in a row.*e2fsck.*kubectl annotate/s);
  assertStringIncludes(refused.message, `${volume.pv} ${RESET}=true`);
  assertEquals(await tracesOf(node, volume, place.nqn), nothing);
  await eventOf(cluster, volume.claim, "is not staged until");
  const reasons = await reasonsOf(cluster, volume.claim);
  for (const reason of ["MountFailure", "CircuitBreakerOpened"]) assert(reasons.includes(reason), reasons.join());
  assertEquals(await figureOf(node, "circuit_breaker_opened_total"), opened + 1);
  assertEquals(await figureOf(node, "circuit_breakers_open"), 1);
  // Others go on.
  const other = await claimed(cluster, "unbroken", "ext4");
  const well = await upOn(cluster, other, { node });
  await unpublish(well);
  await takenFrom(cluster, well);
  await removed(cluster, [other]);

  // Nothing was written to what is broken.
  assertEquals(await byHand(sum), broken);
  await byHand("e2fsck -fy DEVICE >&2 || [ $? -eq 1 ]");
  assertEquals((await staging()).code, "UNAVAILABLE", "mended, and nobody has said so");
  const metadata = { annotations: { [RESET]: "true" } };
  await cluster.kube.patch(objects.persistentVolumes, { name: volume.pv }, { metadata });
  await stage(place);
  const again = await publish(place, crypto.randomUUID());
  assertEquals(await checksum(again), written);
  assertEquals(await figureOf(node, "circuit_breakers_open"), 0);
  await unpublish(again);
  await takenFrom(cluster, again);
  await removed(cluster, [volume]);
});

scenario("the kernel connects as the host says; one identity on two nodes is told", async (cluster) => {
  const { nodes } = cluster;
  const own = await Promise.all(nodes.map(async ({ machine: { guest } }) => {
    const [nqn = "", id = ""] = (await guest.sh("cat /etc/nvme/hostnqn /etc/nvme/hostid")).split("\n");
    return { nqn, id };
  }));
  assertEquals(await hostsOf(cluster, nodes, "own"), own);
  assert(own[0]?.nqn !== own[1]?.nqn);

  const shared = `nqn.2014-08.org.nvmexpress:uuid:${crypto.randomUUID()}`;
  const restart = (settings: Settings) =>
    Promise.all(nodes.map(async (node) => {
      await node.killAgent("SIGTERM");
      await node.startAgent(settings);
    }));
  await restart({ "host-nqn": shared });
  const [first, second] = nodes;
  const [one] = await hostsOf(cluster, [first], "one");
  assertEquals(one, { nqn: shared, id: shared.slice(-36) });
  await until("the first to claim it", async () => await figureOf(first, "host_nqn_duplicate") === 0 || undefined);
  await hostsOf(cluster, [second], "two");
  await until("the second to see it", async () => await figureOf(second, "host_nqn_duplicate") === 1 || undefined);
  const event = await cluster.kube.wait(
    "an event of the Node",
    async () =>
      (await cluster.kube.list(objects.events, "default")).find(({ reason }) => reason === "DuplicateHostNqn"),
  );
  assertEquals(event.involvedObject.name, second.name);
  assertStringIncludes(event.message ?? "", shared);
  assertStringIncludes(event.message ?? "", first.name);
  await restart({});
});

scenario("a node without an identity gets one from its Node's UID, and keeps it", async (cluster) => {
  const [node] = cluster.nodes;
  const { guest } = node.machine;
  await node.killAgent("SIGTERM");
  await guest.sh("mkdir -p /run/nvme; mv /etc/nvme/* /run/nvme/");
  await node.startAgent();
  const { metadata: { uid } } = await cluster.kube.get(objects.nodes, { name: node.name });
  const derived = { nqn: `nqn.2014-08.org.nvmexpress:uuid:${uid}`, id: uid ?? "" };
  assertEquals(await hostsOf(cluster, [node], "derived"), [derived]);
  await node.killAgent("SIGKILL");
  // Made anew it has another UID, and its machine is the same.
  await removeNode(cluster, node.name);
  await addNode(cluster, node.name);
  await node.startAgent();
  assertEquals(await hostsOf(cluster, [node], "kept"), [derived]);
  await node.killAgent("SIGTERM");
  await guest.sh("mv /run/nvme/* /etc/nvme/; rm /var/lib/kubelet/plugins/rds.csi.srvlab.io/nvme-host.json");
  await node.startAgent();
});
