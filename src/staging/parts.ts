import { Filesystems } from "../mounts/filesystem.ts";
import { Mounts } from "../mounts/mount.ts";
import { MountTable } from "../mounts/mountinfo.ts";
import { HostIdentity } from "../nvme/host.ts";
import { parseManagedNqn } from "../nvme/nqn.ts";
import { type ConnectOutcome, Sessions } from "../nvme/session.ts";
import { Sysfs } from "../nvme/sysfs.ts";
import type { Commands } from "../runtime/command.ts";
import { NodeMetrics } from "../runtime/node_metrics.ts";
import { Breakers } from "./breaker.ts";
import type { Cluster } from "./cluster.ts";
import { bootId, Records } from "./records.ts";

/** How long the node waits for what, in milliseconds. */
export interface NodeDeadlines {
  /** From the start of a connect until the device can be used. */
  connect: number;
  mkfs: number;
  /** Checking and growing a filesystem. */
  check: number;
  /** Reading the host's mounts, or its NVMe sessions. */
  mountinfo: number;
  /** Each other program, and what it is to bring about. */
  command: number;
}

export const defaultDeadlines: NodeDeadlines = {
  connect: 30_000,
  mkfs: 120_000,
  check: 60_000,
  mountinfo: 10_000,
  command: 30_000,
};

/** How much of a volume's filesystem there is of something. */
export interface Usage {
  unit: "bytes" | "inodes";
  total: number;
  used?: number;
  available?: number;
}

/** What the node's side of a volume is made with. */
export interface StagingOptions {
  commands: Commands;
  /** Where the host's trees are seen: `/host/proc`, `/host/sys`, `/host/dev`. */
  roots: { proc: string; sysfs: string; dev: string };
  /** The managed NQN prefix, validated. */
  prefix: string;
  recordsFolder: string;
  /** The kubelet's folder, which holds its pods. `/var/lib/kubelet` by default. */
  kubeletFolder?: string;
  /** This node's name in Kubernetes. */
  nodeId?: string | undefined;
  /** Undefined: there is no Kubernetes (`--standalone`). */
  cluster?: Cluster | undefined;
  deadlines?: Partial<NodeDeadlines>;
  /** As whom this node connects. By default what the host says, else what is derived and kept beside the records. */
  host?: { nqn?: string | undefined; id?: string | undefined; etcRoot?: string };
  /** Queues for I/O of each session; 0, the default: as many as the kernel makes. */
  ioQueues?: number;
  /** Milliseconds that a circuit breaker stays open; five minutes by default. */
  breakerOpen?: number;
  metrics?: NodeMetrics;
}

/** The tools of stage, publish and their like, wired. */
export interface StagingParts {
  readonly commands: Commands;
  readonly prefix: string;
  readonly kubeletFolder: string;
  readonly roots: StagingOptions["roots"];
  readonly nodeId: string | undefined;
  readonly cluster: Cluster | undefined;
  readonly host: HostIdentity;
  readonly deadlines: NodeDeadlines;
  readonly sysfs: Sysfs;
  readonly sessions: Sessions;
  readonly mounts: Mounts;
  readonly records: Records;
  readonly breakers: Breakers;
  /** How the last connect of each volume that is being staged ended. */
  readonly connects: Map<string, ConnectOutcome>;
  readonly metrics: NodeMetrics;
  /**
   * Volumes whose filesystem was asked for its figures, and paths of loop devices' files, that have not answered: they are
   * not asked again meanwhile.
   */
  readonly silent: Set<string>;
  /** The last known figures of a volume's filesystem. */
  readonly figures: Map<string, Usage[]>;
  filesystems(signal?: AbortSignal): Filesystems;
}

/** Wires the parts. Nothing is touched yet. */
export function stagingParts(options: StagingOptions): StagingParts {
  const { commands, roots, prefix } = options;
  const deadlines = { ...defaultDeadlines, ...options.deadlines };
  const sysfs = new Sysfs(roots, { limit: deadlines.mountinfo });
  const { cluster, metrics = new NodeMetrics("") } = options;
  const host = hostOf(options, { sysfs, deadline: deadlines.connect / 2 });
  const connects = new Map<string, ConnectOutcome>();
  const ended = (outcome: ConnectOutcome) => {
    const volume = parseManagedNqn(prefix, outcome.nqn);
    if (volume) connects.set(volume.volumeId, outcome);
    if (outcome.made) metrics.connects.inc({ status: outcome.error === undefined ? "success" : "failure" });
    if (outcome.made && outcome.error === undefined) metrics.connectDuration.observe(outcome.seconds);
  };
  const breakers = new Breakers({
    duration: options.breakerOpen ?? 300_000,
    cluster,
    isLive: (volumeId) => connects.has(volumeId) && connects.get(volumeId)?.error === undefined,
    opened: () => metrics.breakerOpened.inc(),
  });
  metrics.observe({ breakersOpen: () => breakers.open });
  const table = new MountTable({ procRoot: roots.proc, limit: deadlines.mountinfo });
  return {
    commands,
    prefix,
    kubeletFolder: options.kubeletFolder ?? "/var/lib/kubelet",
    roots,
    nodeId: options.nodeId,
    cluster,
    deadlines,
    sysfs,
    host,
    breakers,
    connects,
    metrics,
    sessions: new Sessions({ commands, sysfs, prefix, deadlines, host, ioQueues: options.ioQueues, ended }),
    mounts: new Mounts({ commands, table, deadline: deadlines.command }),
    records: new Records(options.recordsFolder, { boot: () => bootId(roots.proc) }),
    silent: new Set(),
    figures: new Map(),
    filesystems: (signal) => new Filesystems({ commands, deadlines, signal }),
  };
}

/** Without Kubernetes there is no Node that an identity could be derived from: then it is a random one, kept all the same. */
function hostOf(options: StagingOptions, { sysfs, deadline }: { sysfs: Sysfs; deadline: number }): HostIdentity {
  const { cluster, prefix, recordsFolder, host: { etcRoot = "/host/etc/nvme", ...set } = {} } = options;
  const keptFile = `${recordsFolder.slice(0, recordsFolder.lastIndexOf("/"))}/nvme-host.json`;
  const uid = async (cancellable: { signal?: AbortSignal | undefined }) =>
    await cluster?.nodeUid(cancellable) ?? crypto.randomUUID();
  return new HostIdentity({ ...set, sysfs, prefix, etcRoot, keptFile, uid, deadline });
}
