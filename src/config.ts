import {
  absolute,
  address,
  bytes,
  decimal,
  duration,
  hostAndPort,
  list,
  name,
  oneOf,
  optional,
  pairs,
  text,
  truth,
  unixSocket,
  whole,
} from "./config_values.ts";
import { hostId, hostNqn } from "./nvme/host_nqn.ts";
import { validateManagedPrefix } from "./nvme/nqn.ts";
import { basePath } from "./volumes/path.ts";

/** What the program can be. */
export const modes = ["controller", "node", "simulator"] as const;
export type Mode = (typeof modes)[number];

/** One setting. `parse` turns its text into the value and throws what is wrong with it and how to put it right. */
export interface Setting<T> {
  /** Without dashes; the Go driver's name where it had the setting. */
  flag: string;
  /** Environment variable, read where the flag is not given. */
  env: string;
  help: string;
  /** For whom it is meant; all modes when empty. `command`: for commands alone. */
  modes: readonly (Mode | "command")[];
  /** Its text when nothing is given; undefined where there is none. */
  default: string | undefined;
  /** Modes that do not start without it. */
  required: readonly Mode[];
  isSwitch: boolean;
  parse: (text: string) => T;
}

type Rest = Partial<Pick<Setting<unknown>, "modes" | "default" | "required" | "env" | "isSwitch">>;

function setting<T>(flag: string, parse: (text: string) => T, help: string, rest: Rest = {}): Setting<T> {
  const env = `RDS_CSI_${flag.toUpperCase().replaceAll("-", "_")}`;
  return { flag, env, help, modes: [], default: undefined, required: [], isSwitch: false, parse, ...rest };
}

/** CSI 1.13, `node_id`: at most 256 bytes. */
const nodeName = name(/^[A-Za-z0-9]([A-Za-z0-9._-]{0,250}[A-Za-z0-9])?$/, "node-1");

const controller = { modes: ["controller"] } as const;
const node = { modes: ["node"] } as const;
const simulator = { modes: ["simulator"] } as const;
const driver = { modes: ["controller", "node"] } as const;
const command = { modes: ["command"] } as const;

/** Every setting there is. Help, reference page and checks come from this table. */
export const settings = {
  mode: setting("mode", oneOf(...modes), "What to be.", { required: modes }),
  logLevel: setting("log-level", oneOf("DEBUG", "INFO", "WARN", "ERROR"), "Least level that is logged.", {
    default: "INFO",
  }),
  logFormat: setting("log-format", oneOf("text", "json"), "Lines for people, or a JSON object a line.", {
    default: "text",
  }),
  endpoint: setting("endpoint", unixSocket, "Unix socket that CSI is served on.", {
    ...driver,
    default: "unix:///var/lib/kubelet/plugins/rds.csi.srvlab.io/csi.sock",
  }),
  socketGroup: setting(
    "socket-group",
    optional(whole(0, 4294967294)),
    "Group (number) that may use the socket too; else its owner only.",
    { ...driver, default: "" },
  ),
  managedNqnPrefix: setting(
    "managed-nqn-prefix",
    validateManagedPrefix,
    "What the NQNs of this cluster's volumes begin with, the same on controller and nodes, like nqn.2000-02.com.mikrotik:pvc-. Nothing outside of it is ever touched.",
    {
      ...driver,
      env: "CSI_MANAGED_NQN_PREFIX",
      required: ["controller", "node"],
    },
  ),
  driverName: setting(
    "driver-name",
    name(/^[A-Za-z0-9]([A-Za-z0-9.-]{0,61}[A-Za-z0-9])?$/, "rds.csi.srvlab.io"),
    "Name that Kubernetes knows the driver by.",
    {
      ...driver,
      default: "rds.csi.srvlab.io",
    },
  ),
  metricsAddress: setting("metrics-address", hostAndPort, "Address of /metrics, /healthz and /readyz.", {
    ...driver,
    default: ":9809",
  }),
  expansion: setting(
    "expansion",
    oneOf("online", "offline"),
    "When volumes grow: while they are in use, or only while no node has them, for servers whose exports show a new size only to a new connection.",
    { ...driver, default: "online" },
  ),
  shutdownGrace: setting("shutdown-grace", duration, "How long calls under way may go on after SIGTERM.", {
    ...driver,
    default: "30s",
  }),

  standalone: setting(
    "standalone",
    truth,
    "Run without Kubernetes: the controller keeps attachments in memory, the node asks and tells nobody. For trials and tests.",
    {
      ...driver,
      default: "false",
      isSwitch: true,
    },
  ),
  standaloneNodes: setting("standalone-nodes", list(nodeName), "Ids of the nodes that exist, with --standalone.", {
    ...controller,
    default: "",
  }),
  kubeconfig: setting(
    "kubeconfig",
    optional(absolute),
    "File with the credentials for the Kubernetes API; by default the pod's service account is used.",
    { ...driver, default: "" },
  ),
  namespace: setting(
    "namespace",
    optional(name(/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/, "rds-csi")),
    "Namespace of the driver's Leases; by default that of the service account, or of the kubeconfig's context.",
    { ...driver, default: "" },
  ),
  kubeDeadline: setting("kube-deadline", duration, "For a request to the Kubernetes API.", {
    ...driver,
    default: "10s",
  }),
  rebuildDeadline: setting(
    "rebuild-deadline",
    duration,
    "Until when all attachments must have been read at the start; past it the controller ends with the reason.",
    { ...controller, default: "2m" },
  ),
  leaseDuration: setting(
    "lease-duration",
    duration,
    "After so long without a sign of the replica that looks after migrations and orphans, another one does.",
    { ...controller, default: "15s" },
  ),
  startupTaint: setting(
    "startup-taint",
    optional(
      name(
        /^([a-z0-9.-]{1,253}\/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$/,
        "rds.csi.srvlab.io/agent-not-ready",
      ),
    ),
    "Key of a taint that is taken off a node once the driver is registered there, for clusters whose nodes join with it; empty: none.",
    { ...controller, default: "rds.csi.srvlab.io/agent-not-ready" },
  ),
  fence: setting(
    "fence",
    oneOf("auto", "off"),
    "Whether a node that may still write is cut off from a volume before another node gets it: by giving the export another NQN. With off, such a node damages the data if it comes back while another one has the volume.",
    { ...controller, default: "auto" },
  ),
  clusterId: setting(
    "cluster-id",
    optional(name(/^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/, "cluster-1")),
    "Written on each new disk, so that clusters which share a RouterOS know their own; by default the UID of the namespace kube-system.",
    { ...controller, default: "" },
  ),
  orphans: setting(
    "orphans",
    oneOf("report", "delete", "off"),
    "What is done about disks and files on RouterOS that no PersistentVolume names. With delete, disks that this cluster made go one grace period after they were reported: also those whose PV with the policy Retain was deleted to be made again, and those whose PVs an old backup of etcd does not know.",
    { ...controller, default: "report" },
  ),
  orphanCheckInterval: setting("orphan-check-interval", duration, "Between two looks for orphans.", {
    ...controller,
    default: "1h",
  }),
  orphanGracePeriod: setting(
    "orphan-grace-period",
    duration,
    "Least time from the first sighting of an orphan to its report (it must have been seen twice, too), and from its report to its deletion.",
    { ...controller, default: "1h" },
  ),
  resetLifetime: setting(
    "reset-lifetime",
    duration,
    "How long the annotation reset-circuit-breaker stays on a PV until the controller takes it off; longer than a node's breaker stays open.",
    { ...controller, default: "10m" },
  ),
  enableVmiSerialization: setting(
    "enable-vmi-serialization",
    truth,
    "Attach the volumes of one KubeVirt machine one after the other, each when the one before is ready.",
    { ...controller, default: "false", isSwitch: true },
  ),
  vmiSerializationDeadline: setting(
    "vmi-serialization-deadline",
    duration,
    "Longest that the next volume of a machine waits for the one before.",
    { ...controller, default: "60s" },
  ),
  rdsAddress: setting(
    "rds-address",
    address,
    "Address of RouterOS' SSH server; nodes reach the exports there too unless a StorageClass says otherwise.",
    {
      ...controller,
      required: ["controller"],
    },
  ),
  rdsPort: setting("rds-port", whole(1, 65535), "Port of RouterOS' SSH server.", { ...controller, default: "22" }),
  rdsUser: setting(
    "rds-user",
    name(/^[A-Za-z0-9._@-]{1,64}$/, "csi"),
    "RouterOS user; its group needs the policies ssh, read and write.",
    {
      ...controller,
      default: "admin",
    },
  ),
  rdsKeyFile: setting("rds-key-file", absolute, "Private key (RSA or Ed25519), read anew at every connection.", {
    ...controller,
    default: "/etc/rds-csi/rds-private-key",
  }),
  rdsHostKey: setting(
    "rds-host-key",
    absolute,
    "File with RouterOS' public host key, a line as in authorized_keys, read anew at every connection.",
    {
      ...controller,
      default: "/etc/rds-csi/rds-host-key",
    },
  ),
  rdsInsecureSkipVerify: setting(
    "rds-insecure-skip-verify",
    truth,
    "Accept any host key: whoever is in between can read and delete everything. For trials.",
    {
      ...controller,
      default: "false",
      isSwitch: true,
    },
  ),
  rdsVolumeBasePath: setting(
    "rds-volume-base-path",
    basePath,
    "Folder on RouterOS for new volumes; its first part is the pool's mount point.",
    {
      ...controller,
      default: "/storage-pool/metal-csi",
    },
  ),
  rdsAllowedBasePaths: setting(
    "rds-allowed-base-paths",
    list(basePath),
    "Further folders that StorageClasses may name as volumePath.",
    {
      ...controller,
      default: "",
    },
  ),
  volumeIds: setting(
    "volume-ids",
    oneOf("short", "legacy"),
    "Ids of new volumes: short fits every RouterOS, legacy can be handled by the Go driver too.",
    {
      ...controller,
      default: "short",
    },
  ),
  capacityRatio: setting(
    "capacity-ratio",
    decimal(0.01, 100),
    "How much may be promised, as a multiple of the pool's size. Over 1 the pool can run full under its volumes.",
    {
      ...controller,
      default: "1.0",
    },
  ),
  capacityReserve: setting(
    "capacity-reserve",
    bytes,
    "Bytes of the pool that are never promised: for whatever else is to lie there.",
    {
      ...controller,
      default: "0",
    },
  ),
  rdsReadDeadline: setting("rds-read-deadline", duration, "For a command that reads.", {
    ...controller,
    default: "10s",
  }),
  rdsCreateDeadline: setting("rds-create-deadline", duration, "For making or growing a volume.", {
    ...controller,
    default: "30s",
  }),
  rdsDeleteDeadline: setting("rds-delete-deadline", duration, "For deleting a volume.", {
    ...controller,
    default: "60s",
  }),

  nodeId: setting("node-id", nodeName, "The node's name in Kubernetes.", { ...node, required: ["node"] }),
  procRoot: setting("proc-root", absolute, "Where the host's /proc is mounted.", { ...node, default: "/host/proc" }),
  sysfsRoot: setting("sysfs-root", absolute, "Where the host's /sys is mounted.", { ...node, default: "/host/sys" }),
  devRoot: setting("dev-root", absolute, "Where the host's /dev is mounted.", { ...node, default: "/host/dev" }),
  nvmeEtcRoot: setting(
    "nvme-etc-root",
    absolute,
    "Where the host's /etc/nvme is mounted, whose hostnqn and hostid are used unless they are set or a session has others.",
    { ...node, default: "/host/etc/nvme" },
  ),
  hostNqn: setting(
    "host-nqn",
    optional(hostNqn),
    "As which NVMe host the node connects, each node as another; by default as a session that it has, else as its files in --nvme-etc-root say, else as one derived from the Node's UID and kept beside the socket.",
    { ...node, default: "" },
  ),
  hostId: setting(
    "host-id",
    optional(hostId),
    "The host id (a UUID) that belongs to --host-nqn; by default it follows from that.",
    { ...node, default: "" },
  ),
  ioQueues: setting(
    "io-queues",
    whole(0, 1024),
    "Queues for I/O that each session has; 0: as many as the kernel makes, which is one for each processor.",
    { ...node, default: "0" },
  ),
  loadModules: setting(
    "load-modules",
    truth,
    "Load the kernel's module nvme-tcp at the start if it is not there. The program modprobe and the host's /lib/modules must be there for that.",
    { ...node, default: "false", isSwitch: true },
  ),
  breakerOpen: setting(
    "breaker-open",
    duration,
    "How long a volume with a filesystem is not staged after three failures in a row.",
    { ...node, default: "5m" },
  ),
  kubeletDir: setting("kubelet-dir", absolute, "The kubelet's folder (its --root-dir), which holds its pods.", {
    ...node,
    default: "/var/lib/kubelet",
  }),
  registrationDir: setting(
    "registration-dir",
    optional(absolute),
    "The kubelet's folder for sockets of plugins (its --root-dir and /plugins_registry), to register there by itself; empty: something else does.",
    { ...node, default: "" },
  ),
  watchInterval: setting(
    "watch-interval",
    duration,
    "Between two looks at sessions and mounts, for what broke under the volumes.",
    { ...node, default: "15s" },
  ),
  maxVolumesPerNode: setting(
    "max-volumes-per-node",
    whole(0, 10_000),
    "How many volumes Kubernetes may attach to the node; 0: no limit.",
    {
      ...node,
      default: "0",
    },
  ),
  connectDeadline: setting("connect-deadline", duration, "For connecting to a volume's export.", {
    ...node,
    default: "30s",
  }),
  mkfsDeadline: setting("mkfs-deadline", duration, "For making a filesystem.", { ...node, default: "120s" }),
  checkDeadline: setting("check-deadline", duration, "For checking a filesystem.", { ...node, default: "60s" }),
  toolDeadline: setting("tool-deadline", duration, "For every other program that is run.", { ...node, default: "30s" }),

  listen: setting("listen", hostAndPort, "Address of the simulated RouterOS' SSH server; port 0 takes a free one.", {
    ...simulator,
    default: "127.0.0.1:2222",
  }),
  user: setting("user", text, "The only user who may log in; any by default.", { ...simulator, default: "" }),
  authorizedKeys: setting(
    "authorized-keys",
    optional(absolute),
    "File with the public keys that may log in, read anew at each login. Without it a key pair is made and named in the ready line.",
    {
      ...simulator,
      default: "",
    },
  ),
  pool: setting("pool", absolute, "Folder for the pool's files and the simulator's state; it survives a restart.", {
    ...simulator,
    required: ["simulator"],
  }),
  poolSize: setting("pool-size", bytes, "Bytes that the pool has.", { ...simulator, default: "100G" }),
  mountPoint: setting("mount-point", text, "First part of the paths on the pool.", {
    ...simulator,
    default: "storage-pool",
  }),
  routerosVersion: setting("routeros-version", text, "What /system/resource says.", {
    ...simulator,
    default: "7.24.4 (stable)",
  }),
  exporter: setting(
    "exporter",
    oneOf("none", "loop", "nvmet"),
    "How exports are shown: not at all, as files in --exports-dir and an open port, or by the kernel's NVMe/TCP target.",
    {
      ...simulator,
      default: "none",
    },
  ),
  exportsDir: setting("exports-dir", optional(absolute), "Folder for the exporter loop: a file for each export.", {
    ...simulator,
    default: "",
  }),
  nvmetRoot: setting(
    "nvmet-root",
    absolute,
    "For the exporter nvmet: the folder nvmet of configfs, mounted where Deno lets the program at it (not under /sys).",
    {
      ...simulator,
      default: "/host/config/nvmet",
    },
  ),
  controlSocket: setting(
    "control-socket",
    optional(absolute),
    "Unix socket for faults on demand and the state: a line of JSON for a line of JSON.",
    {
      ...simulator,
      default: "",
    },
  ),
  latency: setting(
    "latency",
    pairs,
    "Milliseconds that commands take, like add=400,print=50; line is added to every line.",
    {
      ...simulator,
      default: "",
    },
  ),
  guesses: setting(
    "guesses",
    pairs,
    "What RouterOS does where nobody has looked yet, like growth=reconnect,uniqueSlots=false.",
    {
      ...simulator,
      default: "",
    },
  ),

  output: setting("output", oneOf("text", "json"), "A report for people, or as one JSON object.", {
    ...command,
    default: "text",
  }),
  file: setting("file", text, "File that the archive is written to; it must not be there yet. - is standard output.", {
    ...command,
    default: "-",
  }),
  logs: setting("logs", list(absolute), "Files with logs that go into the archive, each with its last mebibyte.", {
    ...command,
    default: "",
  }),
  yesMakeAScratchDisk: setting(
    "yes-make-a-scratch-disk",
    truth,
    "The word without which the probe does nothing: it makes a disk on RouterOS, changes it and removes it.",
    { ...command, default: "false", isSwitch: true },
  ),
  scratchSize: setting("scratch-size", bytes, "Bytes of the probe's scratch disk; it is grown by as much.", {
    ...command,
    default: "64M",
  }),
  nvmeAddress: setting(
    "nvme-address",
    optional(address),
    "Address of RouterOS' NVMe/TCP exports, by default that of its SSH server: the probe connects there, with its scratch disk alone.",
    { ...command, default: "" },
  ),
} as const;
