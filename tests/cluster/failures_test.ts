import { assert, assertEquals } from "@std/assert";
import { untilUsable } from "../lab/cluster/pod_cluster.ts";
import { WORK } from "../lab/kubernetes/cluster.ts";
import * as objects from "../lab/kubernetes/objects.ts";
import { patient } from "../lab/machines/patience.ts";
import { taintOutOfService } from "../kubernetes/steps.ts";
import { scenario } from "./scenarios.ts";
import {
  claimed,
  containerOf,
  deploy,
  deployed,
  driverReady,
  inPod,
  nodeOf,
  removeClaims,
  removePods,
  running,
  startPod,
  undeploy,
  writesOn,
  writing,
} from "./steps.ts";

scenario("the storage machine is reset while pods write: they go on, and nothing is lost", async (lab) => {
  const kinds = ["ext4", "block"] as const;
  for (const kind of kinds) {
    await claimed(lab, `reset-${kind}`, kind);
    const node = lab.nodes[kind === "ext4" ? 0 : 1];
    await startPod(lab, `reset-${kind}`, { claim: `reset-${kind}`, kind, script: writing(kind), node });
  }
  for (const kind of kinds) await running(lab, `reset-${kind}`);
  for (const kind of kinds) await writesOn(lab, `reset-${kind}`);
  await lab.target.machine.reset();
  for (const kind of kinds) await writesOn(lab, `reset-${kind}`);
  const lines = (await inPod(lab, "reset-ext4", "cat /data/log")).split("\n");
  assertEquals(lines, lines.map((_, at) => String(at + 1)));
  await removePods(lab, ...kinds.map((kind) => `reset-${kind}`));
  await removeClaims(lab, ...kinds.map((kind) => `reset-${kind}`));
});

scenario(
  "a node dies and is marked out of service: its pod runs elsewhere with its data, and the node, back again, cannot write",
  async (lab) => {
    const { name: pv } = await claimed(lab, "moves", "ext4");
    await deploy(lab, "moves", { claim: "moves", kind: "ext4", script: writing("ext4") });
    const before = await deployed(lab, "moves");
    const dead = nodeOf(lab, before.spec.nodeName);
    await lab.kube.wait("lines", async () => {
      return Number(await dead.inContainer(containerOf(before), "wc -l </data/log 2>/dev/null || echo 0")) > 5 ||
        undefined;
    });
    const synced = Number(await dead.inContainer(containerOf(before), "wc -l </data/log"));
    const [[nqn = ""] = []] = Object.entries(await dead.sessions());

    // Its processors stop: its sessions and its program are as they were when they go on.
    await dead.machine.freeze();
    await lab.kube.until(
      objects.nodes,
      { name: dead.name },
      ({ status }) => status?.conditions?.some(({ type, status }) => type === "Ready" && status !== "True") === true,
      patient(120_000),
    );
    await taintOutOfService(lab, dead.name, true);
    const after = await deployed(lab, "moves", dead);
    const alive = nodeOf(lab, after.spec.nodeName);
    const lines = (await alive.inContainer(containerOf(after), "cat /data/log")).split("\n");
    assertEquals(lines.slice(0, synced), Array.from({ length: synced }, (_, at) => String(at + 1)));
    // The other node got it under another name than the dead one has.
    const now = Object.keys(await alive.sessions());
    assert(now.length === 1 && now[0] !== nqn, `${now} and ${nqn}`);

    await dead.machine.thaw();
    await taintOutOfService(lab, dead.name, false);
    await lab.kube.wait("the dead node to be without a session", async () => {
      return Object.keys(await dead.sessions()).length === 0 || undefined;
    }, { patience: patient(240_000) });
    await untilUsable(lab.kube, dead.name);
    await driverReady(lab, dead);
    // What the program on the dead node had in its queue is nowhere: each line of the new one is followed by the next.
    const all = (await alive.inContainer(containerOf(after), "cat /data/log")).split("\n").map(Number);
    const anew = all.lastIndexOf(1);
    assert(anew >= synced, `${anew}`);
    assertEquals(all.slice(anew), all.slice(anew).map((_, at) => at + 1));
    await undeploy(lab, "moves");
    await removeClaims(lab, "moves");
    assertEquals(await lab.kube.find(objects.persistentVolumes, { name: pv }), undefined);
    assertEquals(await lab.kube.find(objects.claims, { name: "moves", namespace: WORK }), undefined);
  },
);
