import { Filesystems } from "../mounts/filesystem.ts";
import { Mounts } from "../mounts/mount.ts";
import { MountTable } from "../mounts/mountinfo.ts";
import { Sessions } from "../nvme/session.ts";
import { Sysfs } from "../nvme/sysfs.ts";
import type { Commands } from "../runtime/command.ts";
import type { Cluster } from "./cluster.ts";
import { Records } from "./records.ts";

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
  /** Undefined: there is no Kubernetes (`--standalone`). */
  cluster?: Cluster | undefined;
  deadlines?: Partial<NodeDeadlines>;
  host?: { hostNqn?: string | undefined; hostId?: string | undefined };
}

/** The tools of stage, publish and their like, wired. */
export interface StagingParts {
  readonly commands: Commands;
  readonly prefix: string;
  readonly kubeletFolder: string;
  readonly cluster: Cluster | undefined;
  readonly host: { hostNqn?: string | undefined; hostId?: string | undefined };
  readonly deadlines: NodeDeadlines;
  readonly sysfs: Sysfs;
  readonly sessions: Sessions;
  readonly mounts: Mounts;
  readonly records: Records;
  /** Volumes whose filesystem was asked for its figures and has not answered: it is not asked again meanwhile. */
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
  const table = new MountTable({ procRoot: roots.proc, limit: deadlines.mountinfo });
  return {
    commands,
    prefix,
    kubeletFolder: options.kubeletFolder ?? "/var/lib/kubelet",
    cluster: options.cluster,
    deadlines,
    sysfs,
    host: options.host ?? {},
    sessions: new Sessions({ commands, sysfs, prefix, deadlines }),
    mounts: new Mounts({ commands, table, deadline: deadlines.command }),
    records: new Records(options.recordsFolder),
    silent: new Set(),
    figures: new Map(),
    filesystems: (signal) => new Filesystems({ commands, deadlines, signal }),
  };
}
