import { assert, assertEquals } from "@std/assert";
import { HOME, WORK } from "../lab/kubernetes/cluster.ts";
import * as objects from "../lab/kubernetes/objects.ts";
import { patient } from "../lab/machines/patience.ts";
import { untilUsable } from "../lab/cluster/pod_cluster.ts";
import { scenario } from "./scenarios.ts";
import {
  claimed,
  containerOf,
  deploy,
  deployed,
  driverPod,
  driverReady,
  finished,
  nodeOf,
  removeClaims,
  removePods,
  running,
  startPod,
  undeploy,
  writesOn,
  writing,
} from "./steps.ts";

const DAEMON_SET = { name: "rds-csi-node", namespace: HOME };

scenario("the node's program is killed, and its pod updated, while pods write: they go on", async (lab) => {
  const [node] = lab.nodes;
  const kinds = ["ext4", "block"] as const;
  for (const kind of kinds) {
    await claimed(lab, `goes-on-${kind}`, kind);
    await startPod(lab, `goes-on-${kind}`, { claim: `goes-on-${kind}`, kind, script: writing(kind), node });
  }
  for (const kind of kinds) await running(lab, `goes-on-${kind}`);

  const before = await driverPod(lab, node);
  const restarts = before?.status?.containerStatuses?.[0]?.restartCount ?? 0;
  await node.machine.guest.sh("pkill -KILL -f '[-]-mode=node'");
  await lab.kube.until(
    objects.pods,
    { name: before?.metadata.name ?? "", namespace: HOME },
    ({ status }) => {
      const [driver] = status?.containerStatuses ?? [];
      return driver !== undefined && driver.restartCount > restarts && driver.ready;
    },
    patient(120_000),
  );
  for (const kind of kinds) await writesOn(lab, `goes-on-${kind}`);

  const uids = await Promise.all(lab.nodes.map(async (each) => (await driverPod(lab, each))?.metadata.uid));
  const annotations = { "example.com/updated": new Date().toISOString() };
  await lab.kube.patch(objects.daemonSets, DAEMON_SET, { spec: { template: { metadata: { annotations } } } });
  for (const [at, each] of lab.nodes.entries()) await driverReady(lab, each, uids[at]);
  for (const kind of kinds) await writesOn(lab, `goes-on-${kind}`);
  for (const each of lab.nodes) await untilUsable(lab.kube, each.name);

  // What the new one is asked for it does, for volumes of before as well.
  await removePods(lab, ...kinds.map((kind) => `goes-on-${kind}`));
  await startPod(lab, "after", {
    claim: "goes-on-ext4",
    kind: "ext4",
    script: "tail -n 1 /data/log >/dev/termination-log",
    node,
  });
  assert(Number(await finished(lab, "after")) > 3);
  await removePods(lab, "after");
  await removeClaims(lab, ...kinds.map((kind) => `goes-on-${kind}`));
});

scenario("the node's pod ends within its grace when it is deleted, and in good order", async (lab) => {
  const [node] = lab.nodes;
  const { metadata } = await driverReady(lab, node);
  const began = Date.now();
  await lab.kube.delete(objects.pods, { name: metadata.name, namespace: HOME });
  await driverReady(lab, node, metadata.uid);
  const ending = await lab.kube.find(objects.pods, { name: metadata.name, namespace: HOME });
  assertEquals(ending, undefined);
  // A pod that had to be killed would have stayed for its whole grace of 60 s.
  const events = (await lab.kube.list(objects.events, HOME)).filter(({ involvedObject }) =>
    involvedObject.uid === metadata.uid
  );
  assert(!events.some(({ reason }) => reason === "FailedPreStopHook"), JSON.stringify(events));
  assert(Date.now() - began < patient(60_000), "it took its whole grace");
});

scenario(
  "kubectl drain: the pod runs on the other node with its data, and the drained node has nothing left",
  async (lab) => {
    await claimed(lab, "drained", "ext4");
    await deploy(lab, "drained", { claim: "drained", kind: "ext4", script: writing("ext4") });
    const first = nodeOf(lab, (await deployed(lab, "drained")).spec.nodeName);
    await lab.kube.wait("a first line", async () => {
      const pod = await deployed(lab, "drained");
      return Number(await first.inContainer(containerOf(pod), "wc -l </data/log 2>/dev/null || echo 0")) > 3 ||
        undefined;
    });
    await lab.kubectl(
      "drain",
      first.name,
      "--ignore-daemonsets",
      "--delete-emptydir-data",
      "--force",
      "--timeout=240s",
    );
    const moved = await deployed(lab, "drained", first);
    const second = nodeOf(lab, moved.spec.nodeName);
    const lines = await second.inContainer(containerOf(moved), "cat /data/log");
    assert(lines.startsWith("1\n2\n3\n"), lines.slice(0, 100));
    assertEquals(await first.sessions(), {});
    const left = (await lab.kube.list(objects.volumeAttachments)).filter(({ spec }) => spec.nodeName === first.name);
    assertEquals(left, []);
    await lab.kubectl("uncordon", first.name);
    await undeploy(lab, "drained");
    await removeClaims(lab, "drained");
    assertEquals(await lab.kube.find(objects.claims, { name: "drained", namespace: WORK }), undefined);
  },
);
