import { claimName } from "../kube/host_claim.ts";
import type { LeaseObject } from "../kube/lease.ts";
import { parseManagedNqn } from "../nvme/nqn.ts";
import type { HostOfSession } from "../nvme/sysfs.ts";
import { FailedPrecondition, messageOf, NotFound } from "../runtime/errors.ts";
import { type Check, type Finding, ok, unknown } from "./check.ts";
import { valueOf } from "./exposition.ts";
import { found } from "./meanings.ts";
import type { NodeWorld } from "./node_world.ts";

/** As whom the node connects. */
export function identityChecks(world: NodeWorld): Check[] {
  return [
    { name: "host-nqn", about: "as which NVMe host the node connects", run: (signal) => hostNqn(world, signal) },
    { name: "host-nqn-duplicates", about: "other nodes with the same host NQN", run: (s) => duplicates(world, s) },
  ];
}

async function hostNqn(world: NodeWorld, signal: AbortSignal): Promise<Finding[]> {
  const prefix = (world.config.managedNqnPrefix as string | undefined) ?? "";
  const hosts = await world.sysfs.hosts(prefix, { signal });
  const mixed = mixedHosts(hosts.filter(({ nqn }) => prefix !== "" && parseManagedNqn(prefix, nqn)), hosts);
  try {
    const nqn = await world.identity(signal);
    if (mixed.length > 0) return mixed;
    return [ok(nqn ?? "none yet: it is derived from the Node's UID at the first connect")];
  } catch (error) {
    if (!(error instanceof FailedPrecondition)) throw error;
    return [found("host-nqn-unusable", messageOf(error)), ...mixed];
  }
}

/** Of the driver's own sessions the NQN must be one; of all sessions one NQN must have one id. */
function mixedHosts(own: readonly HostOfSession[], all: readonly HostOfSession[]): Finding[] {
  const nqns = [...new Set(own.map(({ hostNqn }) => hostNqn))];
  const findings: Finding[] = [];
  if (nqns.length > 1) findings.push(found("host-nqn-mixed", `the volumes are connected as ${nqns.join(" and as ")}`));
  for (const [nqn, sessions] of Map.groupBy(all, ({ hostNqn }) => hostNqn)) {
    const ids = [...new Set(sessions.flatMap(({ hostId }) => hostId ?? []))];
    if (ids.length > 1) findings.push(found("host-nqn-mixed", `${nqn} has the host ids ${ids.join(" and ")}`));
  }
  return findings;
}

/** The Lease says who else has it; where Kubernetes does not answer, the driver's own last look. */
async function duplicates(world: NodeWorld, signal: AbortSignal): Promise<Finding[]> {
  const nqn = await world.identity(signal);
  if (nqn === undefined) return [ok("the node has no host NQN yet")];
  const kube = await world.kube();
  const measured = valueOf(await world.metrics(signal).catch(() => []), "host_nqn_duplicate");
  if (!kube) return [ok("without Kubernetes there are no other nodes")];
  let holder: string | undefined;
  try {
    const path = `/apis/coordination.k8s.io/v1/namespaces/${kube.namespace}/leases/${claimName(nqn)}`;
    holder = (await kube.get<LeaseObject>(path, { signal })).spec?.holderIdentity;
  } catch (error) {
    if (!(error instanceof NotFound) && measured === undefined) {
      return [unknown(`whether another node has ${nqn} is not known: ${messageOf(error)}`)];
    }
  }
  const isOthers = holder !== undefined && holder !== "" && holder !== world.config.nodeId;
  if (measured === 1 || (isOthers && measured !== 0)) {
    return [found("host-nqn-duplicate", `${isOthers ? holder : "another node"} connects as ${nqn}, too`)];
  }
  return [ok("no other node has it")];
}
