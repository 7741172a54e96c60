import type { Config } from "../config_read.ts";
import type { Kube } from "../kube/client.ts";
import { connectKube } from "../kube/connect.ts";
import { HostIdentity } from "../nvme/host.ts";
import { Sysfs } from "../nvme/sysfs.ts";
import { Commands } from "../runtime/command.ts";
import { FailedPrecondition } from "../runtime/errors.ts";
import type { AttachmentHere } from "../staging/cluster.ts";
import { type Look, look } from "../staging/condition.ts";
import { KubernetesCluster } from "../staging/kubernetes.ts";
import { defaultDeadlines, type StagingParts, stagingParts } from "../staging/parts.ts";
import { once } from "./once.ts";
import { addressOf, fetchText, parseExposition, type Sample } from "./exposition.ts";

/** What the checks of a node look at. What several of them ask for is looked at once. */
export interface NodeWorld {
  readonly config: Config;
  /** Settings of the environment that are wrong. */
  readonly problems: readonly string[];
  /** Of the program that looks. */
  readonly version: string;
  readonly commands: Commands;
  readonly sysfs: Sysfs;
  /** The driver's own parts, for looking alone. @throws {FailedPrecondition} without a managed prefix */
  parts(): StagingParts;
  /** What there is of volumes, by the driver's own look. */
  look(signal: AbortSignal): Promise<Look>;
  /** As whom the node connects, or would; `source` undefined: it is derived from the Node's UID at the first connect. */
  identity(signal: AbortSignal): Promise<string | undefined>;
  /** Undefined: there is no Kubernetes (`--standalone`). @throws when it cannot be asked */
  kube(): Promise<Kube | undefined>;
  /** This node's attachments; undefined without Kubernetes. */
  attachments(signal: AbortSignal): Promise<readonly AttachmentHere[] | undefined>;
  /** What the running driver measures. @throws {Unreachable} when it does not answer */
  metrics(signal: AbortSignal): Promise<Sample[]>;
}

/** Nothing is looked at yet. */
export function nodeWorld(
  config: Config,
  options: { problems: readonly string[]; version: string; commands?: Commands; kube?: Kube },
): NodeWorld {
  const { problems, version, commands = new Commands() } = options;
  const roots = { proc: config.procRoot, sysfs: config.sysfsRoot, dev: config.devRoot };
  const sysfs = new Sysfs(roots, { limit: defaultDeadlines.mountinfo });
  const parts = once(() => partsOf(config, { commands, roots }));
  const kube = once(() => options.kube ? Promise.resolve(options.kube) : kubeOf(config));
  return {
    config,
    problems,
    version,
    commands,
    sysfs,
    parts,
    kube,
    look: once((signal: AbortSignal) => look(parts(), { signal })),
    identity: once((signal: AbortSignal) => identityOf(config, sysfs, signal)),
    attachments: once(async (signal: AbortSignal) => {
      const api = await kube();
      return api && await clusterOf(config, api).attachmentsHere({ signal });
    }),
    metrics: once(async (signal: AbortSignal) => {
      const { text } = await fetchText(addressOf(config.metricsAddress), "/metrics", signal);
      return parseExposition(text);
    }),
  };
}

function partsOf(
  config: Config,
  { commands, roots }: { commands: Commands; roots: { proc: string; sysfs: string; dev: string } },
): StagingParts {
  return stagingParts({
    commands,
    roots,
    prefix: requirePrefix(config),
    nodeId: config.nodeId,
    kubeletFolder: config.kubeletDir,
    recordsFolder: `${folderOf(config.endpoint)}/volumes`,
  });
}

/** @throws {FailedPrecondition} when it is not known which sessions are the driver's */
export function requirePrefix(config: Config): string {
  const prefix = config.managedNqnPrefix as string | undefined;
  if (prefix !== undefined) return prefix;
  throw new FailedPrecondition(
    "without CSI_MANAGED_NQN_PREFIX it is not known which sessions, mounts and records are the driver's",
  );
}

/** The folder that the driver keeps its own files in: that of its socket. */
export function folderOf(endpoint: string): string {
  return endpoint.slice(0, endpoint.lastIndexOf("/"));
}

async function kubeOf(config: Config): Promise<Kube | undefined> {
  const { standalone, kubeconfig, namespace, kubeDeadline: deadline } = config;
  return standalone ? undefined : await connectKube({ kubeconfig, namespace, deadline });
}

function clusterOf(config: Config, kube: Kube): KubernetesCluster {
  const { driverName: driver, nodeId } = config;
  if ((nodeId as string | undefined) === undefined) {
    throw new FailedPrecondition("without --node-id (RDS_CSI_NODE_ID) Kubernetes cannot be asked what it has here");
  }
  const events = { postSought() {} };
  return new KubernetesCluster({ kube, driver, nodeId, prefix: requirePrefix(config), events });
}

/** Nothing else has an identity: the driver derives one when it connects. */
class Derived extends FailedPrecondition {}

/** The driver's own search, which writes nothing as long as the last source has no answer. */
async function identityOf(config: Config, sysfs: Sysfs, signal: AbortSignal): Promise<string | undefined> {
  const identity = new HostIdentity({
    nqn: config.hostNqn,
    id: config.hostId,
    sysfs,
    prefix: (config.managedNqnPrefix as string | undefined) ?? "",
    etcRoot: config.nvmeEtcRoot,
    keptFile: `${folderOf(config.endpoint)}/nvme-host.json`,
    uid: () => Promise.reject(new Derived("no other source has an identity")),
    deadline: defaultDeadlines.mountinfo,
  });
  try {
    return (await identity.get({ signal })).nqn;
  } catch (error) {
    if (error instanceof Derived) return undefined;
    throw error;
  }
}
