import { Annotations } from "./attachments/annotations.ts";
import { KubernetesAttachments } from "./attachments/kubernetes.ts";
import { MachineLock } from "./attachments/machine_lock.ts";
import { Migrations } from "./attachments/migrations.ts";
import { pvOf } from "./attachments/objects.ts";
import { Resets } from "./attachments/resets.ts";
import { View } from "./attachments/view.ts";
import type { Config } from "./config_read.ts";
import type { Kube, KubeObject } from "./kube/client.ts";
import { connectKube } from "./kube/connect.ts";
import { Events } from "./kube/events.ts";
import { Lease } from "./kube/lease.ts";
import { type PvObject, pvPath } from "./kube/objects.ts";
import { StartupTaint } from "./kube/startup_taint.ts";
import { Deadline, pause } from "./runtime/deadline.ts";
import { messageOf, Unreachable } from "./runtime/errors.ts";
import { log } from "./runtime/log.ts";
import type { ControllerMetrics } from "./runtime/controller_metrics.ts";
import { keyOf } from "./volumes/id.ts";
import { type Orphan, Orphans, sentenceOf } from "./volumes/orphans.ts";
import type { Volumes } from "./volumes/volumes.ts";

/** What the controller has of Kubernetes. */
export interface Kubernetes {
  attachments: KubernetesAttachments;
  /** Begins with what one replica does for all: call it when everything else is ready. */
  lead(): void;
  stop(): Promise<void>;
}

/** Milliseconds that is spent on the last events at the end. */
const LAST_WORDS = 5000;

const monotonic = () => performance.now();

/** The client; what it needs is proven by the first request. */
export function kubeOf(config: Config): Promise<Kube> {
  const { kubeconfig, namespace, kubeDeadline: deadline } = config;
  return connectKube({ kubeconfig, namespace, deadline });
}

/**
 * What tells this cluster's disks from those of others on one RouterOS.
 * @throws {Unreachable} when the API server does not say within the deadline of the rebuild
 */
export async function clusterIdOf(config: Config, kube: Kube): Promise<string | undefined> {
  if (config.clusterId) return config.clusterId;
  using deadline = new Deadline(config.rebuildDeadline, "Kubernetes");
  for (;;) {
    try {
      const { metadata } = await kube.get("/api/v1/namespaces/kube-system", { signal: deadline.signal });
      return metadata.uid;
    } catch (error) {
      if (deadline.signal.aborted) throw noRebuild(config, error);
      log.warn("the Kubernetes API does not say which cluster this is: trying again", { error });
      await pause(1000, deadline.signal).catch(() => {});
    }
  }
}

/** Rebuilds who has what from Kubernetes, and follows it from then on. @throws {Unreachable} when that takes too long */
export async function startKubernetes(
  config: Config,
  { kube, volumes, metrics, clusterId }: {
    kube: Kube;
    volumes: Volumes;
    metrics: ControllerMetrics;
    clusterId: string | undefined;
  },
): Promise<Kubernetes> {
  const { driverName: driver } = config;
  const ending = new AbortController();
  const view = new View({ kube, driver, keyOf, now: monotonic });
  const events = new Events({ kube, component: driver, host: Deno.hostname(), metrics });
  const migrations = new Migrations({ view, events, metrics });
  const attachments = new KubernetesAttachments({
    view,
    kube,
    driver,
    fence: config.fence === "off" ? undefined : (...held) => volumes.fence(...held),
    events,
    metrics,
    machines: config.enableVmiSerialization
      ? new MachineLock({ kube, deadline: config.vmiSerializationDeadline })
      : undefined,
    granted: (uid) => migrations.granted(uid),
    now: monotonic,
  });
  if (config.fence === "off") {
    log.warn("--fence=off: a node that comes back while another has its volume damages the data");
  }
  await rebuild(config, view, ending.signal);
  migrations.start();
  const lease = leaseOf(config, kube);
  const lifetime = config.resetLifetime;
  const resets = new Resets({ view, annotations: new Annotations(kube), lifetime, now: monotonic });
  const { startupTaint: key } = config;
  const taint = key === undefined ? undefined : new StartupTaint({ kube, driver, key });
  const orphans = orphansOf(config, { kube, volumes, metrics, events, clusterId, view, signal: ending.signal });
  metrics.observe({
    attachmentsAttached: () => view.count().attached,
    attachmentsClaimed: () => view.count().claims,
    fencesOwed: () => [...view.pvs()].filter(({ owesFence }) => owesFence).length,
    watchAge: () => view.age / 1000,
    activeMigrations: () => migrations.active,
    leads: () => lease.isLeader,
  });
  let leading: Promise<void> | undefined;
  return {
    attachments,
    lead() {
      const look = (signal: AbortSignal) => orphans?.check(signal) ?? Promise.resolve();
      const work = async (signal: AbortSignal) => {
        const looking = repeat(config.orphanCheckInterval, look, signal);
        await Promise.all([migrations.lead(signal), resets.lead(signal), taint?.lead(signal), looking]);
      };
      leading = lease.leading(work, ending.signal);
    },
    async stop() {
      migrations.stop();
      ending.abort();
      await leading;
      await view.ended();
      await events.close(LAST_WORDS);
    },
  };
}

async function rebuild(config: Config, view: View, signal: AbortSignal): Promise<void> {
  const began = performance.now();
  using deadline = new Deadline(config.rebuildDeadline, "Kubernetes", signal);
  try {
    await view.start(signal, deadline.signal);
  } catch (error) {
    throw noRebuild(config, error);
  }
  log.info("the attachments are known", { ...view.count(), milliseconds: Math.round(performance.now() - began) });
}

function noRebuild(config: Config, error: unknown): Unreachable {
  return new Unreachable(
    `who has which volume could not be read from Kubernetes within ${config.rebuildDeadline / 1000} s ` +
      `(--rebuild-deadline), and without that nothing is safe: ${messageOf(error)}`,
    { cause: error },
  );
}

function leaseOf({ leaseDuration: duration }: Config, kube: Kube): Lease {
  const { namespace } = kube;
  const host = Deno.hostname();
  // The proportions of client-go.
  const [renewDeadline, retry] = [duration * 2 / 3, duration * 2 / 15];
  return new Lease({ kube, namespace, name: "rds-csi-controller", host, duration, renewDeadline, retry });
}

function orphansOf(
  config: Config,
  from: {
    kube: Kube;
    volumes: Volumes;
    metrics: ControllerMetrics;
    events: Events;
    clusterId: string | undefined;
    view: View;
    signal: AbortSignal;
  },
): Orphans | undefined {
  const { kube, volumes, metrics, events, clusterId, view, signal } = from;
  const { orphans: action, driverName } = config;
  if (action === "off") return undefined;
  const about = { apiVersion: "storage.k8s.io/v1", kind: "CSIDriver", name: driverName };
  return new Orphans({
    volumes,
    handles: (signal) => handlesOf(kube, driverName, signal),
    inUse(volumeId) {
      view.assertFresh();
      return view.of(volumeId).length > 0;
    },
    clusterId,
    action,
    grace: config.orphanGracePeriod,
    now: monotonic,
    told: async (orphan: Orphan) => {
      const key = `${orphan.kind} ${orphan.file}`;
      await events.once({ about, reason: "OrphanDetected", message: sentenceOf(orphan) }, key, signal);
    },
    cleaned: ({ id, claim }) => {
      const message = `the volume ${id}${claim ? `, made for the claim ${claim},` : ""} was deleted (--orphans=delete)`;
      events.post({ about, reason: "OrphanCleaned", message });
    },
    metrics,
  });
}

/** The volumes that PVs of the driver name, from a quorum. */
async function handlesOf(kube: Kube, driver: string, signal: AbortSignal): Promise<ReadonlySet<string>> {
  const handles = new Set<string>();
  await kube.list(pvPath(), (object: KubeObject) => {
    const pv = pvOf(object as PvObject, driver);
    if (pv) handles.add(pv.handle);
  }, { signal });
  return handles;
}

async function repeat(
  interval: number,
  work: (signal: AbortSignal) => Promise<void>,
  signal: AbortSignal,
): Promise<void> {
  while (!signal.aborted) {
    await work(signal);
    await pause(interval, signal).catch(() => {});
  }
}
