import { Identity, Node } from "../proto/gen/csi_pb.ts";
import type { Config } from "./config_read.ts";
import { identityService } from "./csi/identity.ts";
import { nodeService } from "./csi/node.ts";
import { type KubeletRegistration, registerWithKubelet } from "./csi/registration.ts";
import { CsiServer } from "./csi/server.ts";
import type { Kube } from "./kube/client.ts";
import { connectKube } from "./kube/connect.ts";
import { Events } from "./kube/events.ts";
import { HostClaim } from "./kube/host_claim.ts";
import { prepareModule } from "./nvme/module.ts";
import { everythingGranted } from "./permissions.ts";
import { Commands } from "./runtime/command.ts";
import { abortable } from "./runtime/deadline.ts";
import { FailedPrecondition } from "./runtime/errors.ts";
import { serveHttp } from "./runtime/http.ts";
import { KeyedLock } from "./runtime/keyed_lock.ts";
import { log } from "./runtime/log.ts";
import { NodeMetrics } from "./runtime/node_metrics.ts";
import type { Cluster } from "./staging/cluster.ts";
import { KubernetesCluster } from "./staging/kubernetes.ts";
import type { Guard } from "./staging/mending.ts";
import { type StagingParts, stagingParts } from "./staging/parts.ts";
import { bootId } from "./staging/records.ts";
import { startWatching } from "./staging/watcher.ts";
import { keyOf } from "./volumes/id.ts";

/** Milliseconds that are spent on the last events at the end. */
const LAST_WORDS = 5000;

/**
 * The node: CSI Identity and Node on the socket. Nothing is asked of Kubernetes before that: its API may be away when the
 * node starts. Ready is set last.
 */
export async function startNode(config: Config, version: string): Promise<{ stop(): Promise<void> }> {
  await checkRoots({ proc: config.procRoot, sysfs: config.sysfsRoot, dev: config.devRoot });
  await checkKubeletDir(config.kubeletDir);
  await using started = new AsyncDisposableStack();
  const metrics = new NodeMetrics(version);
  const commands = new Commands();
  const kubernetes = config.standalone ? undefined : await kubernetesOf(config, metrics);
  const parts = partsOf(config, { commands, metrics, cluster: kubernetes?.cluster });
  await prepareModule({ commands, sysfs: parts.sysfs, load: config.loadModules, deadline: config.toolDeadline });

  let ready = false;
  const lock = new KeyedLock();
  const server = new CsiServer({ socket: config.endpoint, group: config.socketGroup, metrics, lock });
  const { driverName: name, expansion, nodeId, maxVolumesPerNode } = config;
  server.add(Identity, identityService({ name, version, expansion, ready: () => ready }));
  server.add(Node, nodeService(parts, { nodeId, maxVolumesPerNode }));
  let registration: KubeletRegistration | undefined;
  const http = serveHttp({
    ...config.metricsAddress,
    metrics,
    ready: () => ready && (registration?.accepted ?? true),
  });
  started.defer(() => http.close());
  metrics.observe({ commandsRunning: () => commands.running, commandsStuck: () => commands.stuck });
  if (kubernetes) started.defer(kubernetes.follow(parts));

  await server.start();
  const watcher = startWatching(parts, { guard: guardOf(lock), metrics, interval: config.watchInterval });
  started.defer(async () => {
    ready = false;
    // At the same time: the calls' grace is as long as all of it may take.
    await Promise.all([server.stop(config.shutdownGrace), watcher.close()]);
  });
  ready = true;
  const { registrationDir: folder, endpoint } = config;
  if (folder !== undefined) {
    registration = await registerWithKubelet({ folder, driverName: name, endpoint, metrics });
    started.defer(() => registration?.close());
  }
  log.info("the node serves", { socket: config.endpoint, metricsPort: http.port, nodeId });
  const all = started.move();
  return { stop: () => all.disposeAsync() };
}

/** The guard that background work shares with the calls. @throws {Busy} when a call has the volume */
function guardOf(lock: KeyedLock): Guard {
  return (volumeId, what, work) => lock.run(keyOf(volumeId), what, work);
}

/** What the node has of Kubernetes. */
interface Kubernetes {
  cluster: Cluster;
  /** Begins what is done for as long as the node runs. @returns what ends it */
  follow(parts: Pick<StagingParts, "host">): () => Promise<void>;
}

/** @throws {FailedPrecondition} when there are no credentials: a node that cannot ask would clean nothing and tell nobody */
async function kubernetesOf(config: Config, metrics: NodeMetrics): Promise<Kubernetes> {
  const { kubeconfig, namespace, kubeDeadline: deadline, driverName: driver, nodeId, managedNqnPrefix: prefix } =
    config;
  const kube: Kube = await connectKube({ kubeconfig, namespace, deadline });
  const events = new Events({ kube, component: driver, host: nodeId, metrics });
  const claim = new HostClaim({ kube, events, metrics, nodeId });
  return {
    cluster: new KubernetesCluster({ kube, driver, nodeId, prefix, events, boot: () => bootId(config.procRoot) }),
    follow({ host }) {
      const ending = new AbortController();
      // Nothing is claimed before the first connect: until then there may be no identity.
      const claiming = abortable(host.known, ending.signal)
        .then(({ nqn }) => claim.follow(nqn, ending.signal), () => {});
      return async () => {
        ending.abort();
        await claiming;
        await events.close(LAST_WORDS);
      };
    },
  };
}

function partsOf(
  config: Config,
  { commands, metrics, cluster }: { commands: Commands; metrics: NodeMetrics; cluster: Cluster | undefined },
): StagingParts {
  return stagingParts({
    commands,
    metrics,
    cluster,
    roots: { proc: config.procRoot, sysfs: config.sysfsRoot, dev: config.devRoot },
    prefix: config.managedNqnPrefix,
    nodeId: config.nodeId,
    kubeletFolder: config.kubeletDir,
    recordsFolder: `${config.endpoint.slice(0, config.endpoint.lastIndexOf("/"))}/volumes`,
    host: { nqn: config.hostNqn, id: config.hostId, etcRoot: config.nvmeEtcRoot },
    ioQueues: config.ioQueues,
    breakerOpen: config.breakerOpen,
    deadlines: {
      connect: config.connectDeadline,
      mkfs: config.mkfsDeadline,
      check: config.checkDeadline,
      command: config.toolDeadline,
    },
  });
}

/** Deno gives the real trees to a program with every permission only; the same trees mounted elsewhere are ordinary files. */
async function checkRoots(roots: Record<"proc" | "sysfs" | "dev", string>): Promise<void> {
  for (const [name, path] of Object.entries(roots)) {
    const real = /^\/(proc|sys|dev)(\/|$)/.test(path);
    if (real && !everythingGranted()) {
      throw new FailedPrecondition(
        `--${name}-root=${path} lies under a tree that Deno refuses to a program without every permission: mount the ` +
          "host's tree at another place (the chart uses /host), or run with -A",
      );
    }
    const isFolder = await Deno.stat(path).then((info) => info.isDirectory, () => false);
    if (!isFolder) throw new FailedPrecondition(`--${name}-root=${path} is no folder: mount the host's tree there`);
  }
}

/** Where it is another folder, mounts and nodes of its pods are not seen as theirs. */
async function checkKubeletDir(path: string): Promise<void> {
  if (await Deno.stat(path).then((info) => info.isDirectory, () => false)) return;
  log.warn("the kubelet's folder is not there: name the one that it has (its --root-dir) with --kubelet-dir", { path });
}
