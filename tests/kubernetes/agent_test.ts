import { assert, assertEquals, assertRejects } from "@std/assert";
import type { Kube } from "../../src/kube/client.ts";
import { connectKube } from "../../src/kube/connect.ts";
import { Forbidden } from "../../src/kube/errors.ts";
import { Events } from "../../src/kube/events.ts";
import { HostClaim } from "../../src/kube/host_claim.ts";
import { RESET } from "../../src/kube/objects.ts";
import { NodeMetrics } from "../../src/runtime/node_metrics.ts";
import { KubernetesCluster } from "../../src/staging/kubernetes.ts";
import { type LabFolder, labFolder } from "../lab/folder.ts";
import { type ControlPlane, startControlPlane } from "../lab/kubernetes/control_plane.ts";
import { serviceAccount } from "../lab/kubernetes/credentials.ts";
import * as objects from "../lab/kubernetes/objects.ts";
import { nodeClusterRules, nodeNamespaceRules } from "../lab/kubernetes/rules.ts";

const driver = "rds.csi.srvlab.io";
const prefix = "nqn.2000-02.com.mikrotik:pvc-";
const home = "rds-csi";
const account = { name: "rds-csi-node", namespace: home };
const user = serviceAccount(home, account.name);
const pv = "pvc-0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9";
const volumeId = "pvc-0a1b2c3d4e5f60718293a4b5c6d7";
const hostNqn = "nqn.2014-08.org.nvmexpress:uuid:aaaaaaaa-0000-4000-8000-aaaaaaaaaaaa";
const { signal } = new AbortController();

let folder: LabFolder;
let plane: ControlPlane;

Deno.test.beforeAll(async () => {
  folder = await labFolder("kubernetes");
  plane = await startControlPlane({
    folder: folder.path,
    users: [user],
    apiServerArgs: ["--disable-admission-plugins=ServiceAccount"],
  });
  const { admin } = plane;
  await admin.create(objects.namespaces, { metadata: { name: home } });
  const roleRef = { apiGroup: "rbac.authorization.k8s.io", name: account.name };
  const subjects = [{ kind: "ServiceAccount", ...account }];
  const metadata = { name: account.name };
  await admin.create(objects.clusterRoles, { metadata, rules: nodeClusterRules });
  await admin.create(objects.clusterRoleBindings, { metadata, subjects, roleRef: { ...roleRef, kind: "ClusterRole" } });
  await admin.create(objects.roles, { metadata: account, rules: nodeNamespaceRules });
  await admin.create(objects.roleBindings, { metadata: account, subjects, roleRef: { ...roleRef, kind: "Role" } });
  for (const name of ["node-1", "node-2"]) await admin.create(objects.nodes, { metadata: { name } });
});

Deno.test.afterAll(async () => {
  await plane?.[Symbol.asyncDispose]();
  await folder?.[Symbol.asyncDispose]();
});

/** The node's client, with credentials laid down as the kubelet does it. */
async function kubeOf(): Promise<Kube> {
  const path = await plane.kubeconfig(user);
  const { token } = JSON.parse(await Deno.readTextFile(path)).users[0].user;
  await Deno.mkdir(`${folder.path}/account`, { recursive: true });
  const files = { token, "ca.crt": plane.ca, namespace: home };
  for (const [name, text] of Object.entries(files)) await Deno.writeTextFile(`${folder.path}/account/${name}`, text);
  const { hostname, port } = new URL(plane.url);
  const env = (name: string) => ({ KUBERNETES_SERVICE_HOST: hostname, KUBERNETES_SERVICE_PORT: port })[name];
  const pod = { folder: `${folder.path}/account`, env };
  return await connectKube({ kubeconfig: undefined, namespace: undefined, deadline: 30_000, pod });
}

interface Agent {
  kube: Kube;
  cluster: KubernetesCluster;
  claim: HostClaim;
  metrics: NodeMetrics;
}

/** A test with what one node has of Kubernetes. */
function scenario(name: string, run: (agent: Agent) => Promise<void>): void {
  const fn = async () => {
    const kube = await kubeOf();
    const metrics = new NodeMetrics("");
    const events = new Events({ kube, component: driver, host: "node-1", metrics });
    const nodeId = "node-1";
    const cluster = new KubernetesCluster({ kube, driver, nodeId, prefix, events });
    await run({ kube, cluster, metrics, claim: new HostClaim({ kube, events, metrics, nodeId }) });
    await events.close(10_000);
  };
  Deno.test({ name, sanitizeOps: false, sanitizeResources: false, fn });
}

async function makePod(name: string, nodeName: string): Promise<string> {
  const spec = { nodeName, containers: [{ name: "main", image: "none" }] };
  const { metadata } = await plane.admin.create(objects.pods, { metadata: { name, namespace: home }, spec });
  return metadata.uid ?? "";
}

async function makeVolume(): Promise<objects.Claim> {
  const { admin } = plane;
  const common = { accessModes: ["ReadWriteOnce"], storageClassName: "" };
  const claim = await admin.create(objects.claims, {
    metadata: { name: "data", namespace: home },
    spec: { ...common, resources: { requests: { storage: "1Gi" } }, volumeName: pv },
  });
  const claimRef = { namespace: home, name: "data", uid: claim.metadata.uid };
  await admin.create(objects.persistentVolumes, {
    metadata: { name: pv },
    spec: { ...common, capacity: { storage: "1Gi" }, claimRef, csi: { driver, volumeHandle: volumeId } },
  });
  return claim;
}

scenario("a node sees its own pods and no others, with the permissions of its role", async ({ cluster, kube }) => {
  const here = [await makePod("a", "node-1"), await makePod("b", "node-1")];
  await makePod("c", "node-2");
  assertEquals(await cluster.podsHere({ signal }), new Set(here));
  await assertRejects(() => kube.get(`/api/v1/namespaces/${home}/pods/a`, { signal }), Forbidden);
});

scenario("a node sees its attachments, reads annotations, and tells people on the claim", async ({ cluster }) => {
  const { admin } = plane;
  const claim = await makeVolume();
  for (const [name, nodeName] of [["here", "node-1"], ["there", "node-2"]] as const) {
    const spec = { attacher: driver, nodeName, source: { persistentVolumeName: pv } };
    await admin.create(objects.volumeAttachments, { metadata: { name }, spec });
  }
  const asked = { volumeId, nqn: undefined, attached: false, deleting: false };
  assertEquals(await cluster.attachmentsHere({ signal }), [asked]);
  const nqn = `${prefix}${volumeId.slice(4)}.g1`;
  const status = { attached: true, attachmentMetadata: { nvme_nqn: nqn, volume_id: volumeId } };
  await admin.patch(objects.volumeAttachments, { name: "here" }, { status }, "status");
  assertEquals(await cluster.attachmentsHere({ signal }), [{ ...asked, attached: true, nqn }]);
  const known = { volumeId, pv };
  assertEquals(await cluster.annotation(known, RESET, { signal }), undefined);
  await admin.patch(objects.persistentVolumes, { name: pv }, { metadata: { annotations: { [RESET]: "true" } } });
  assertEquals(await cluster.annotation(known, RESET, { signal }), "true");
  cluster.tell(known, "CircuitBreakerOpened", "it failed three times");
  const event = await admin.wait("an event of the claim", async () => {
    const all = await admin.list(objects.events, home);
    return all.find(({ reason }) => reason === "CircuitBreakerOpened");
  });
  assertEquals(event.involvedObject.uid, claim.metadata.uid);
});

scenario("a node's claim of its host NQN is another's when the Node is gone", async ({ cluster, claim, metrics }) => {
  const { admin } = plane;
  const { metadata: { uid } } = await admin.get(objects.nodes, { name: "node-1" });
  assertEquals(await cluster.nodeUid({ signal }), uid);
  const leases = async () => await admin.list(objects.leases, home);
  await claim.look(hostNqn, signal);
  const [lease] = await leases();
  assert(lease);
  assertEquals(lease.spec?.holderIdentity, "node-1");
  await admin.patch(objects.leases, lease.metadata, { spec: { holderIdentity: "node-2" } });
  await claim.look(hostNqn, signal);
  assert((await metrics.text()).includes("rds_csi_host_nqn_duplicate 1"));
  const event = await admin.wait("an event of the Node", async () => {
    return (await admin.list(objects.events, "default")).find(({ reason }) => reason === "DuplicateHostNqn");
  });
  assertEquals(event.involvedObject.uid, uid);
  await admin.delete(objects.nodes, { name: "node-2" });
  await claim.look(hostNqn, signal);
  assert((await metrics.text()).includes("rds_csi_host_nqn_duplicate 0"));
  assertEquals((await leases()).map(({ spec }) => spec?.holderIdentity), ["node-1"]);
  await admin.delete(objects.nodes, { name: "node-1" });
  await admin.gone(objects.leases, lease.metadata);
});
