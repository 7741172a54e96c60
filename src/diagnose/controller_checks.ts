import type { LeaseObject } from "../kube/lease.ts";
import { messageOf, NotFound, Unreachable } from "../runtime/errors.ts";
import { keyOf } from "../volumes/id.ts";
import { candidatesIn, sentenceOf } from "../volumes/orphans.ts";
import { socket } from "./agent_checks.ts";
import { type Check, type Finding, ok } from "./check.ts";
import type { ControllerWorld, Wanted } from "./controller_world.ts";
import { valueOf } from "./exposition.ts";
import { settingFindings } from "./host_checks.ts";
import { found } from "./meanings.ts";
import { routerOsChecks } from "./routeros_checks.ts";

/** All checks of the controller, in the order in which one would look. */
export function controllerChecks(world: ControllerWorld): Check[] {
  const { config, version } = world;
  const about = "the CSI socket: who answers there";
  return [
    {
      name: "settings",
      about: "settings of the environment, and the managed NQN prefix",
      run: () => Promise.resolve(settingFindings(world)),
    },
    ...routerOsChecks(world),
    { name: "volumes", about: "exports against PersistentVolumes", run: (signal) => volumes(world, signal) },
    { name: "attachments", about: "exports against VolumeAttachments", run: (signal) => attachments(world, signal) },
    { name: "orphans", about: "disks and files that nobody names", run: (signal) => orphans(world, signal) },
    { name: "leader", about: "the replica that leads", run: (signal) => leader(world, signal) },
    { name: "socket", about, run: (signal) => socket({ ...config, version }, signal) },
    { name: "controller", about: "the controller's /metrics", run: (signal) => controller(world, signal) },
  ];
}

const noKubernetes = [ok("there is no Kubernetes (--standalone)")];

async function volumes(world: ControllerWorld, signal: AbortSignal): Promise<Finding[]> {
  const wanted = await world.wanted(signal);
  const { volumes } = await world.inventory(signal);
  const findings: Finding[] = [];
  for (const { name, handle } of wanted?.pvs ?? []) {
    const volume = volumes.find(({ id }) => id === handle);
    if (!volume) {
      findings.push(found("volume-missing", `${handle} of the PV ${name} is not on RouterOS, or is not ours`));
    } else if (!volume.exported) findings.push(found("volume-not-exported", `${handle} of the PV ${name}`));
  }
  for (const { id, mountFilesystem } of volumes) {
    if (mountFilesystem) findings.push(found("mounted-by-routeros", `${id} has mount-filesystem=yes`));
  }
  if (findings.length > 0) return findings;
  return wanted ? [ok(`${volumes.length} on RouterOS, ${wanted.pvs.length} PersistentVolumes`)] : noKubernetes;
}

async function attachments(world: ControllerWorld, signal: AbortSignal): Promise<Finding[]> {
  const wanted = await world.wanted(signal);
  if (!wanted) return noKubernetes;
  const { volumes } = await world.inventory(signal);
  const findings = wanted.attachments.flatMap(({ name, nodeId, nqn, attached, ...attachment }) => {
    const id = attachment.volumeId ?? wanted.pvs.find((pv) => pv.name === attachment.pv)?.handle;
    const volume = volumes.find((each) => each.id === id);
    if (!attached || nqn === undefined || !volume || volume.nqn === nqn) return [];
    return [found("nqn-differs", `${id} is exported as ${volume.nqn}, and attached to ${nodeId} as ${nqn} (${name})`)];
  });
  return findings.length > 0 ? findings : [ok(`${wanted.attachments.length} VolumeAttachments`)];
}

async function orphans(world: ControllerWorld, signal: AbortSignal): Promise<Finding[]> {
  const wanted = await world.wanted(signal);
  if (!wanted) return noKubernetes;
  const seen = await world.inventory(signal);
  const candidates = candidatesIn(seen, { ...knownBy(wanted), clusterId: wanted.clusterId });
  if (candidates.length > 0 && wanted.pvs.length === 0) {
    throw new Unreachable(
      `RouterOS has ${candidates.length} volumes and Kubernetes shows no PersistentVolume of this driver, which is no proof ` +
        "that nobody needs them: look at 'kubectl get pv'",
    );
  }
  return candidates.length > 0
    ? candidates.map((each) => found("volume-orphaned", each.file, sentenceOf(each)))
    : [ok("none")];
}

function knownBy({ pvs, attachments }: Wanted): { handles: ReadonlySet<string>; inUse: (id: string) => boolean } {
  // Of one whose PV is gone, the PV's name tells.
  const used = new Set(attachments.map(({ volumeId, pv }) => keyOf(volumeId ?? pv)));
  return { handles: new Set(pvs.map(({ handle }) => handle)), inUse: (id) => used.has(keyOf(id)) };
}

/** Seconds that machines' clocks may differ without a word. */
const SKEW = 60;

async function leader({ config, kube }: ControllerWorld, signal: AbortSignal): Promise<Finding[]> {
  const api = await kube();
  if (!api) return noKubernetes;
  const path = `/apis/coordination.k8s.io/v1/namespaces/${api.namespace}/leases/rds-csi-controller`;
  try {
    const { holderIdentity: holder = "", renewTime = "" } = (await api.get<LeaseObject>(path, { signal })).spec ?? {};
    if (holder === "") return [found("no-leader", "the Lease has no holder")];
    const age = (Date.now() - Date.parse(renewTime)) / 1000;
    if (!(age < config.leaseDuration / 1000 + SKEW)) {
      return [found("no-leader", `${holder} has not renewed the Lease since ${renewTime || "ever"}`)];
    }
    return [ok(holder)];
  } catch (error) {
    if (!(error instanceof NotFound)) throw error;
    return [found("no-leader", `there is no Lease rds-csi-controller in the namespace ${api.namespace}`)];
  }
}

/** Seconds of silence after which nothing is given or released on the word of a watch. */
const SILENCE = 90;

async function controller(world: ControllerWorld, signal: AbortSignal): Promise<Finding[]> {
  let samples;
  try {
    samples = await world.metrics(signal);
  } catch (error) {
    if (!(error instanceof Unreachable)) throw error;
    return [found("agent-silent", messageOf(error))];
  }
  const findings: Finding[] = [];
  if (valueOf(samples, "rds_connection_state") === 0) {
    findings.push(found("controller-lost", "the controller is not connected to RouterOS"));
  }
  const age = valueOf(samples, "kubernetes_watch_age_seconds");
  if (age !== undefined && age > SILENCE) {
    findings.push(found("controller-lost", `the controller has not heard of Kubernetes for ${Math.round(age)} s`));
  }
  const owed = valueOf(samples, "fences_owed") ?? 0;
  if (owed > 0) findings.push(found("fence-owed", `${owed} volumes`));
  const shows = (name: string) => valueOf(samples, name) ?? "unknown";
  return findings.length > 0 ? findings : [
    ok(`${shows("attachments_attached")} attached, ${shows("ssh_queue_length")} scripts wait for RouterOS`),
  ];
}
