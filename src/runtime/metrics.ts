import { Counter, Gauge, Histogram, Registry } from "prom-client";

const prefix = "rds_csi_";
const seconds = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120];

/** What can be asked at the moment of a scrape; a figure that is not known is absent, never 0. */
export interface Probes {
  sshQueueLength?: () => number;
  sshConnected?: () => boolean | undefined;
  commandsRunning?: () => number;
  commandsStuck?: () => number;
  attachmentsAttached?: () => number | undefined;
  attachmentsClaimed?: () => number | undefined;
  watchAge?: () => number | undefined;
  fencesOwed?: () => number;
  activeMigrations?: () => number | undefined;
  leads?: () => boolean;
  breakersOpen?: () => number;
}

/** What every mode counts, in a registry of its own. Nothing is fetched from anywhere during a scrape. */
export class Metrics {
  readonly registry = new Registry();

  readonly grpcCalls = this.counter("grpc_calls_total", "CSI calls answered, by method and status code.", [
    "method",
    "code",
  ]);
  readonly grpcDuration = this.histogram("grpc_call_duration_seconds", "How long CSI calls took.", {
    labelNames: ["method", "code"],
  });

  constructor(readonly version: string) {
    this.gauge("build_info", "1, with the version as label.", ["version"]).set({ version }, 1);
  }

  /** Adds the gauges that are read at the moment of a scrape. */
  observe(probes: Probes): void {
    this.#observed("ssh_queue_length", "Scripts that wait for a channel.", probes.sshQueueLength);
    this.#observed("rds_connection_state", "1 while the connection to RouterOS stands, else 0.", () => {
      const connected = probes.sshConnected?.();
      return connected === undefined ? undefined : Number(connected);
    }, probes.sshConnected !== undefined);
    this.#observed("attachments_attached", "Volumes that nodes have now.", probes.attachmentsAttached);
    this.#observed(
      "attachments_claimed",
      "Attachments that are asked for and not there yet.",
      probes.attachmentsClaimed,
    );
    this.#observed(
      "fences_owed",
      "Volumes that a node was let go from which may still write, and is cut off when the others have left: make sure that it is off.",
      probes.fencesOwed,
    );
    this.#observed("kubernetes_watch_age_seconds", "Since the API server's last sign of life.", probes.watchAge);
    this.#observed("migration_active_migrations", "Live migrations now.", probes.activeMigrations);
    this.#observed("leader", "1 in the replica that looks after migrations and orphans, else 0.", () => {
      return Number(probes.leads?.());
    }, probes.leads !== undefined);
    this.#observed("circuit_breakers_open", "Volumes whose circuit breaker is open now.", probes.breakersOpen);
    this.#observed("child_processes", "External programs that run now.", probes.commandsRunning);
    this.#observed("child_processes_stuck", "External programs that could not be ended.", probes.commandsStuck);
  }

  /** The exposition text. */
  text(): Promise<string> {
    return this.registry.metrics();
  }

  #observed(name: string, help: string, read?: () => number | undefined, wanted = read !== undefined): void {
    if (!wanted || !read) return;
    new Gauge({
      name: prefix + name,
      help,
      registers: [this.registry],
      collect() {
        const value = read();
        if (value === undefined) this.remove();
        else this.set(value);
      },
    });
  }

  protected counter<L extends string>(name: string, help: string, labelNames: L[]): Counter<L> {
    return new Counter({ name: prefix + name, help, labelNames, registers: [this.registry] });
  }

  protected gauge<L extends string>(name: string, help: string, labelNames: L[]): Gauge<L> {
    return new Gauge({ name: prefix + name, help, labelNames, registers: [this.registry] });
  }

  protected histogram<L extends string>(
    name: string,
    help: string,
    options: { labelNames?: L[]; buckets?: number[] },
  ): Histogram<L> {
    const { labelNames = [], buckets = seconds } = options;
    return new Histogram({ name: prefix + name, help, labelNames, buckets, registers: [this.registry] });
  }
}
