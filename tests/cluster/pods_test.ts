import { assert, assertEquals } from "@std/assert";
import { WORK } from "../lab/kubernetes/cluster.ts";
import * as objects from "../lab/kubernetes/objects.ts";
import { patient } from "../lab/machines/patience.ts";
import { scenario } from "./scenarios.ts";
import {
  claimed,
  containerOf,
  DATA,
  driverReady,
  finished,
  inPod,
  type Kind,
  removeClaims,
  removePods,
  running,
  startPod,
  writesOn,
  writing,
} from "./steps.ts";

const kinds = ["ext4", "xfs", "block"] as const;

/** Fills a file, or the begin of a device, and says its checksum. */
function filling(kind: Kind): string {
  const [path, conversion] = kind === "block" ? [DATA, "notrunc,fsync"] : [`${DATA}/file`, "fsync"];
  return `dd if=/dev/urandom of=${path} bs=64k count=32 conv=${conversion} 2>/dev/null; ${summing(kind)}`;
}

function summing(kind: Kind): string {
  const path = kind === "block" ? DATA : `${DATA}/file`;
  return `dd if=${path} bs=64k count=32 2>/dev/null | sha256sum >/dev/termination-log`;
}

scenario("the driver registers itself with each kubelet, and the startup taint goes", async ({ kube, nodes }) => {
  for (const { name } of nodes) {
    const { spec } = await kube.get(objects.csiNodes, { name });
    assertEquals(spec.drivers.map(({ name, nodeID }) => [name, nodeID]), [["rds.csi.srvlab.io", name]]);
    assertEquals((await kube.get(objects.nodes, { name })).spec?.taints ?? [], []);
  }
});

scenario(
  "a claim and a pod: ext4, xfs and block, written by one and read by another on the other node",
  async (lab) => {
    const [first, second] = lab.nodes;
    // Whoever is not root may write because of fsGroup alone.
    const user = { runAsUser: 1000, runAsGroup: 1000, fsGroup: 2000 };
    const security = (kind: Kind) => kind === "block" ? undefined : user;
    await Promise.all(kinds.map((kind) => claimed(lab, `move-${kind}`, kind)));
    const pod = (kind: Kind, script: string, node: typeof first) => {
      const given = security(kind);
      return { claim: `move-${kind}`, kind, script, node, ...(given ? { security: given } : {}) };
    };
    await Promise.all(kinds.map((kind) => startPod(lab, `writes-${kind}`, pod(kind, filling(kind), first))));
    const written = await Promise.all(kinds.map((kind) => finished(lab, `writes-${kind}`)));
    await removePods(lab, ...kinds.map((kind) => `writes-${kind}`));
    await Promise.all(kinds.map((kind) => startPod(lab, `reads-${kind}`, pod(kind, summing(kind), second))));
    assertEquals(await Promise.all(kinds.map((kind) => finished(lab, `reads-${kind}`))), written);
    assertEquals(new Set(written).size, 3);
    await removePods(lab, ...kinds.map((kind) => `reads-${kind}`));
    await removeClaims(lab, ...kinds.map((kind) => `move-${kind}`));
    for (const node of lab.nodes) {
      await lab.kube.wait(`no session to be left on ${node.name}`, async () => {
        return Object.keys(await node.sessions()).length === 0 || undefined;
      }, { patience: patient(60_000) });
    }
    const { disks } = await lab.target.control({ op: "state" }) as { disks: { slot?: string }[] };
    assertEquals(disks.filter(({ slot }) => slot?.startsWith("pvc-")), []);
  },
);

scenario("a volume grows under a pod that writes to it: the claim, the filesystem and the device", async (lab) => {
  const [node] = lab.nodes;
  await Promise.all(kinds.map((kind) => claimed(lab, `grow-${kind}`, kind)));
  const pods = kinds.map((kind) => `grows-${kind}`);
  await Promise.all(
    kinds.map((kind) => startPod(lab, `grows-${kind}`, { claim: `grow-${kind}`, kind, script: writing(kind), node })),
  );
  await Promise.all(pods.map((name) => running(lab, name)));
  for (const kind of kinds) {
    const change = { spec: { resources: { requests: { storage: "2Gi" } } } };
    await lab.kube.patch(objects.claims, { name: `grow-${kind}`, namespace: WORK }, change);
  }
  for (const kind of kinds) {
    const hasGrown = ({ status }: objects.Claim) => status?.capacity?.storage === "2Gi";
    await lab.kube.until(objects.claims, { name: `grow-${kind}`, namespace: WORK }, hasGrown, patient(150_000));
    const size = kind === "block" ? `blockdev --getsize64 ${DATA}` : `df -B1 -P ${DATA} | awk 'END { print $2 }'`;
    assert(Number(await inPod(lab, `grows-${kind}`, size)) > 1.8 * 2 ** 30, kind);
    await writesOn(lab, `grows-${kind}`);
  }
  await removePods(lab, ...pods);
  await removeClaims(lab, ...kinds.map((kind) => `grow-${kind}`));
});

scenario("ReadWriteOncePod: a second pod of the claim is not started while the first one is there", async (lab) => {
  await claimed(lab, "alone", "ext4", ["ReadWriteOncePod"]);
  const options = { claim: "alone", kind: "ext4" as const, script: writing("ext4") };
  await startPod(lab, "alone-1", options);
  await running(lab, "alone-1");
  await startPod(lab, "alone-2", options);
  await lab.kube.until(
    objects.pods,
    { name: "alone-2", namespace: WORK },
    ({ status }) => status?.conditions?.some(({ message }) => message?.includes("ReadWriteOncePod")) === true,
  );
  await removePods(lab, "alone-1");
  await running(lab, "alone-2");
  await removePods(lab, "alone-2");
  await removeClaims(lab, "alone");
});

scenario("one ReadWriteMany block volume is handed over from a pod on one node to one on the other", async (lab) => {
  const [first, second] = lab.nodes;
  await claimed(lab, "machine", "block", ["ReadWriteMany"]);
  const source = { claim: "machine", kind: "block" as const, script: `${filling("block")}; ${writing("block")}` };
  await startPod(lab, "source", { ...source, script: "sleep 100000", node: first });
  await running(lab, "source");
  await inPod(lab, "source", `dd if=/dev/urandom of=${DATA} bs=64k count=32 conv=notrunc,fsync 2>/dev/null`);
  const sum = `dd if=${DATA} bs=64k count=32 2>/dev/null | sha256sum`;
  const written = await inPod(lab, "source", sum);
  await startPod(lab, "target", { ...source, script: "sleep 100000", node: second });
  await running(lab, "target");
  assertEquals(await inPod(lab, "target", sum), written);
  // Both have it, and the one that the machine leaves goes while the other one writes.
  await inPod(lab, "target", `dd if=/dev/urandom of=${DATA} bs=64k seek=32 count=32 conv=notrunc,fsync 2>/dev/null`);
  await removePods(lab, "source");
  await inPod(lab, "target", `dd if=/dev/urandom of=${DATA} bs=64k seek=64 count=32 conv=notrunc,fsync 2>/dev/null`);
  assertEquals(await inPod(lab, "target", sum), written);
  const told = await lab.kube.wait("the migration to be told", async () => {
    const events = (await lab.kube.list(objects.events, WORK)).filter(({ involvedObject }) =>
      involvedObject.name === "machine"
    );
    const reasons = events.map(({ reason }) => reason);
    return reasons.includes("MigrationStarted") && reasons.includes("MigrationCompleted") ? reasons : undefined;
  });
  assert(!told.includes("MigrationFailed"));
  await removePods(lab, "target");
  await removeClaims(lab, "machine");
});

scenario("the image's own rds-csi diagnose finds nothing wrong on a node that is well", async (lab) => {
  const [node] = lab.nodes;
  const { code, stdout, stderr } = await node.run(containerOf(await driverReady(lab, node)), "rds-csi", "diagnose");
  assertEquals(code, 0, stdout + stderr);
});
