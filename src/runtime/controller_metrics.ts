import { Metrics } from "./metrics.ts";

/** What the controller counts besides. */
export class ControllerMetrics extends Metrics {
  readonly sshCommands = this.counter("ssh_commands_total", "Scripts sent to RouterOS, by kind and result.", [
    "kind",
    "result",
  ]);
  readonly sshDuration = this.histogram("ssh_command_duration_seconds", "From sending to the whole answer.", {
    labelNames: ["kind"],
  });
  readonly sshConnects = this.counter("rds_reconnect_total", "Attempts to connect to RouterOS, by status.", [
    "status",
  ]);
  readonly poolSize = this.gauge("pool_size_bytes", "Size of the pool, as RouterOS last said.", ["pool"]);
  readonly poolFree = this.gauge("pool_free_bytes", "Bytes not written yet on the pool, as RouterOS last said.", [
    "pool",
  ]);
  readonly poolPromised = this.gauge("pool_promised_bytes", "Sum of the sizes of all file disks on the pool.", [
    "pool",
  ]);
  readonly attaches = this.counter("attachment_attach_total", "Attachments asked for, by what came of it.", [
    "status",
  ]);
  readonly detaches = this.counter("attachment_detach_total", "Detachments asked for, by what came of it.", [
    "status",
  ]);
  readonly conflicts = this.counter(
    "attachment_conflicts_total",
    "Attachments refused because others have the volume or asked for it earlier.",
    [],
  );
  readonly attachmentDuration = this.histogram(
    "attachment_operation_duration_seconds",
    "How long attaching and detaching took.",
    { labelNames: ["operation"] },
  );
  readonly fences = this.counter(
    "fences_total",
    "Nodes that may still write, let go: cut off (done), not possible (failed), later (owed), switched off (off).",
    ["result"],
  );
  readonly migrations = this.counter(
    "migration_migrations_total",
    "Live migrations that were completed (success), were given up (failure) or take too long (timeout).",
    ["result"],
  );
  readonly migrationDuration = this.histogram(
    "migration_duration_seconds",
    "From the grant to the second node until one of the two let go.",
    { buckets: [15, 30, 60, 90, 120, 180, 300, 600] },
  );
  readonly eventsPosted = this.counter("events_posted_total", "Events of Kubernetes that were posted.", ["reason"]);
  readonly eventsLost = this.counter("events_lost_total", "Events that could not be posted; they are in the log.", [
    "reason",
  ]);
  readonly orphans = this.gauge("orphans", "Disks and files on RouterOS that no PersistentVolume names.", ["kind"]);
  readonly orphansCleaned = this.counter("orphans_cleaned_total", "Orphaned volumes that were deleted.", []);
}
