import { assertEquals } from "@std/assert";
import { type Cluster, controllerUser, setRules, WORK } from "../lab/kubernetes/cluster.ts";
import * as objects from "../lab/kubernetes/objects.ts";
import { clusterRules, namespaceRules, singleRules } from "../lab/kubernetes/rules.ts";
import { scenarios } from "./scenarios.ts";
import {
  attach,
  attached,
  bound,
  detach,
  eventOf,
  makeClaim,
  metricOf,
  refused,
  removeClaim,
  setReady,
} from "./steps.ts";

const scenario = scenarios({
  leaderElection: true,
  controlPlane: {
    audited: true,
    // API servers without it are still about; clients list then before they watch.
    apiServerArgs: ["--feature-gates=WatchList=false"],
  },
  settings: {
    "enable-vmi-serialization": true,
    "reset-lifetime": "1s",
    "orphan-check-interval": "1s",
    "orphan-grace-period": "1s",
  },
});

/** A request that the controller or one of its sidecars has made. */
interface Asked {
  /** The first word of its user agent. */
  program: string;
  verb: string;
  group: string;
  /** With its subresource: `volumeattachments/status`. */
  resource: string;
  namespace: string | undefined;
  name: string | undefined;
  /** HTTP status of the answer. */
  code: number;
}

/** What the controller and its sidecars have asked the API server for, as its audit log has it. */
async function asked({ controlPlane }: Cluster): Promise<Asked[]> {
  const lines = (await Deno.readTextFile(controlPlane.auditLog)).split("\n");
  // The last line may be half written.
  const events = lines.slice(0, -1).map((line) => JSON.parse(line));
  const own = events.filter(({ user, objectRef }) => user?.username === controllerUser.name && objectRef);
  return own.map(({ userAgent, verb, objectRef, responseStatus }) => ({
    program: String(userAgent).split(/[ /]/)[0] ?? "",
    verb,
    group: objectRef.apiGroup ?? "",
    resource: [objectRef.resource, objectRef.subresource].filter(Boolean).join("/"),
    namespace: objectRef.namespace,
    name: objectRef.name,
    code: responseStatus?.code ?? 0,
  }));
}

/** Whether a rule of one resource and one verb is for such a request. */
function isFor({ apiGroups, resources, verbs }: objects.Rule, { verb, group, resource }: Asked): boolean {
  return apiGroups.includes(group) && resources.includes(resource) && verbs.includes(verb);
}

/** Every rule by itself, and what both roles are without it. */
function eachRule(): { rule: objects.Rule; rest: NonNullable<Parameters<typeof setRules>[1]> }[] {
  const [cluster, namespace] = [singleRules(clusterRules), singleRules(namespaceRules)];
  const without = (rules: objects.Rule[], rule: objects.Rule) => rules.filter((other) => other !== rule);
  return [
    ...cluster.map((rule) => ({ rule, rest: { cluster: without(cluster, rule), namespace } })),
    ...namespace.map((rule) => ({ rule, rest: { cluster, namespace: without(namespace, rule) } })),
  ];
}

function nameOf({ resources, verbs }: objects.Rule): string {
  return `${verbs.join()} ${resources.join()}`;
}

const reviews: objects.Kind<objects.KubeObject & { spec: object; status?: { allowed: boolean } }> = {
  apiVersion: "authorization.k8s.io/v1",
  kind: "SubjectAccessReview",
  plural: "subjectaccessreviews",
  namespaced: false,
};

/** Whether the API server would allow the request now. */
async function isAllowed({ kube }: Cluster, { verb, group, resource, namespace, name }: Asked): Promise<boolean> {
  const [kind, subresource] = resource.split("/");
  const resourceAttributes = { verb, group, resource: kind, subresource, namespace, name };
  const spec = { user: controllerUser.name, groups: controllerUser.groups, resourceAttributes };
  const { status } = await kube.create(reviews, { metadata: { name: "" }, spec });
  return status?.allowed ?? false;
}

scenario("an ordinary life of the driver: none of its requests is forbidden", async (cluster) => {
  const { kube } = cluster;
  await makeClaim(cluster, "life");
  const { name } = await bound(cluster, "life");
  await attach(cluster, "life-a", { node: "node-a", volume: name });
  await attached(cluster, "life-a");
  await attach(cluster, "life-b", { node: "node-b", volume: name });
  await refused(cluster, "life-b");
  await kube.wait("the conflict to be told twice", async () => {
    const event: objects.Event & { count?: number } = await eventOf(cluster, "life", "is refused to node-b");
    return (event.count ?? 0) > 1 || undefined;
  });
  const resources = { requests: { storage: "2Gi" } };
  await kube.patch(objects.claims, { name: "life", namespace: WORK }, { spec: { resources } });
  await kube.until(objects.persistentVolumes, { name }, ({ spec }) => spec.capacity.storage === "2Gi");
  const reset = "rds.csi.srvlab.io/reset-circuit-breaker";
  await kube.patch(objects.persistentVolumes, { name }, { metadata: { annotations: { [reset]: "true" } } });
  await kube.until(objects.persistentVolumes, { name }, ({ metadata }) => metadata.annotations?.[reset] === undefined);
  const taint = { key: "rds.csi.srvlab.io/agent-not-ready", effect: "NoExecute" };
  await kube.patch(objects.nodes, { name: "node-a" }, { spec: { taints: [taint] } });
  await kube.patch(objects.csiNodes, { name: "node-a" }, { metadata: { annotations: { registered: "again" } } });
  await kube.until(
    objects.nodes,
    { name: "node-a" },
    ({ spec }) => !spec?.taints?.some(({ key }) => key === taint.key),
  );
  await setReady(cluster, "node-a", false);
  await detach(cluster, "life-a");
  await attached(cluster, "life-b");
  await cluster.crash();
  await detach(cluster, "life-b");
  await removeClaim(cluster, "life");
  await setReady(cluster, "node-a", true);
  await kube.wait("the controller to lead again", async () => await metricOf(cluster, "leader") === 1 || undefined);

  const all = await asked(cluster);
  const programs = new Set(all.map(({ program }) => program));
  assertEquals([...programs].sort(), ["Deno", "csi-attacher", "csi-provisioner", "csi-resizer"]);
  assertEquals(all.filter(({ code }) => code === 401 || code === 403), []);
});

scenario(
  "each rule by itself was used, and the API server refuses what it was used for without it",
  async (cluster) => {
    const all = await asked(cluster);
    const unused = eachRule().filter(({ rule }) => !all.some((request) => isFor(rule, request)));
    assertEquals(unused.map(({ rule }) => nameOf(rule)), []);
    try {
      for (const { rule, rest } of eachRule()) {
        const used = all.find((request) => isFor(rule, request)) as Asked;
        await setRules(cluster, {});
        await cluster.kube.wait(
          `${nameOf(rule)} to be allowed`,
          async () => await isAllowed(cluster, used) || undefined,
        );
        await setRules(cluster, rest);
        await cluster.kube.wait(
          `${nameOf(rule)} to be refused`,
          async () => !await isAllowed(cluster, used) || undefined,
        );
      }
    } finally {
      await setRules(cluster, {});
    }
  },
);

scenario("an event that the driver may not post waits until it may", async (cluster) => {
  await makeClaim(cluster, "silent");
  const { name } = await bound(cluster, "silent");
  await setRules(cluster, { cluster: clusterRules.filter(({ resources }) => !resources.includes("events")) });
  const posting = {
    program: "",
    verb: "create",
    group: "",
    resource: "events",
    namespace: WORK,
    name: undefined,
    code: 0,
  };
  await cluster.kube.wait("events to be forbidden", async () => !await isAllowed(cluster, posting) || undefined);
  await attach(cluster, "silent-a", { node: "node-a", volume: name });
  await attached(cluster, "silent-a");
  const complaint = "the driver may not post events";
  await cluster.kube.wait(complaint, () => cluster.replica.output.includes(complaint) || undefined);
  await setRules(cluster, {});
  const { reason } = await eventOf(cluster, "silent", "was attached to node-a");
  assertEquals(reason, "VolumeAttached");
  assertEquals(await metricOf(cluster, "events_lost_total") ?? 0, 0);
  await detach(cluster, "silent-a");
  await removeClaim(cluster, "silent");
});
