import { Metrics } from "./metrics.ts";

/** What the node counts besides. */
export class NodeMetrics extends Metrics {
  readonly connects = this.counter("nvme_connects_total", "Sessions that were to be made, by what came of it.", [
    "status",
  ]);
  readonly connectDuration = this.histogram(
    "nvme_connect_duration_seconds",
    "From the begin of a connect until its device can be used.",
    {},
  );
  readonly connectionsActive = this.gauge(
    "nvme_connections_active",
    "Live sessions of the driver's volumes when they were last looked at.",
    [],
  );
  readonly sessions = this.gauge(
    "nvme_sessions",
    "Sessions of the driver's volumes when they were last looked at, by state (live, connecting …).",
    ["state"],
  );
  readonly mountOperations = this.counter(
    "mount_operations_total",
    "Stage, unstage, publish and unpublish, by what came of it.",
    ["operation", "status"],
  );
  readonly abnormalVolumes = this.gauge(
    "abnormal_volumes",
    "Volumes that something is wrong with when they were last looked at, by reason.",
    ["reason"],
  );
  readonly staleDetected = this.counter(
    "stale_mounts_detected_total",
    "Mounts that were found over a device that is not there any more.",
    [],
  );
  readonly staleRecoveries = this.counter("stale_recoveries_total", "Their recoveries, by what came of it.", [
    "status",
  ]);
  readonly breakerOpened = this.counter("circuit_breaker_opened_total", "Circuit breakers that opened.", []);
  readonly registered = this.gauge(
    "kubelet_registered",
    "1 while the kubelet has the driver on its list, else 0; absent when the driver does not register itself.",
    [],
  );
  readonly hostNqnDuplicate = this.gauge(
    "host_nqn_duplicate",
    "1 while another living node of the cluster connects with this node's host NQN, else 0.",
    [],
  );
  readonly eventsPosted = this.counter("events_posted_total", "Events of Kubernetes that were posted.", ["reason"]);
  readonly eventsLost = this.counter("events_lost_total", "Events that could not be posted; they are in the log.", [
    "reason",
  ]);

  constructor(version: string) {
    super(version);
    // Absent until somebody has looked: a 0 would say that there are none.
    for (const gauge of [this.connectionsActive, this.registered, this.hostNqnDuplicate]) gauge.remove();
  }
}
