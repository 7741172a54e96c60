import type { FaultRule } from "./faults.ts";

/** A row of `/disk` to begin with: its properties, by RouterOS' names. */
export type PlantedDisk = Record<string, string | number | boolean>;

/**
 * What RouterOS does where nobody has looked on a device yet. Clients must work with either value; the defaults are the
 * stricter or the likelier reading.
 */
export interface Guesses {
  /** A second disk with the slot of another is refused. Default true. */
  uniqueSlots?: boolean;
  /** A second disk with the file of another is refused. Default true. */
  uniqueFiles?: boolean;
  /** A second export with the NQN of another is refused. Default true. */
  uniqueNqns?: boolean;
  /** The NQN of an export that is on may be changed: hosts lose the old one. Default false: it is refused. */
  renamesExports?: boolean;
  /** The longest slot, in characters. Default 32. */
  longestSlot?: number;
  /** `/disk/add` with `file-size` takes an existing file over (and resizes it). Default false: it is refused. */
  sizeOnExistingFile?: boolean;
  /** Files take their whole size from the pool at once. Default false: only what was written counts. */
  preallocated?: boolean;
  /** `/disk/add` makes the folders of its file. Default true. */
  makesFolders?: boolean;
  /** `/file/remove` removes a file that a disk uses. Default false. */
  removesUsedFiles?: boolean;
  /** Paths of `/disk` begin with a slash, whatever was written. Default true. */
  leadingSlash?: boolean;
  /** When a connected host sees that an export grew: at once, or after it has connected anew. Default `now`. */
  growth?: "now" | "reconnect";
  /** A changing command goes on when its channel is closed or cut. Default true. */
  outlivesChannel?: boolean;
  /** JSON for no rows: `[]`, or nothing. Default `brackets`. */
  noRows?: "brackets" | "nothing";
  /** Numbers in JSON as `2048.000000`. Default false. */
  jsonDecimals?: boolean;
  /** The exit status of a line that failed. Default 0: it is told by its text alone. */
  failureStatus?: number;
  /** The text of a failure goes to standard error. Default false: to standard output. */
  failuresOnStderr?: boolean;
  /** Channels at once; those beyond are opened and never answered. Default 18. */
  maxChannels?: number;
  /**
   * Milliseconds from the start, or a reboot's end, until the exports are back. With the exporter `nvmet` their ports are
   * open meanwhile, and refuse. Default 0.
   */
  exportsBackAfter?: number;
}

/** How a simulator is started. */
export interface SimulatorOptions {
  /** Folder with the pool's files; made when it is not there. `.simulator` in it keeps rows and keys. */
  poolFolder: string;
  /** Bytes. Default 100 GiB. */
  poolSize?: number;
  /** First part of the paths on the pool. Default `storage-pool`. */
  mountPoint?: string;
  /** Slot of the pool's own row. Default `raid1`. */
  poolSlot?: string;
  /** File system of the pool. Default `btrfs`; subvolumes need that. */
  poolFs?: "btrfs" | "xfs" | "ext4";
  /** Label of the pool's file system. Default: the mount point. */
  poolLabel?: string;
  /** Rows that are there besides, each unless its slot is there already; a `file` row gets its file (`size`, bytes). */
  foreignDisks?: readonly PlantedDisk[];

  /** Address to listen on. Default `127.0.0.1`. */
  host?: string;
  /** Default 0: a free one. */
  port?: number;
  /** The only user who may log in. Default: any. */
  user?: string;
  /** Public keys that may log in, in authorized_keys form (RSA or Ed25519, as on RouterOS). */
  authorizedKeys?: readonly string[];
  /**
   * A file with more of them, read anew at each login. Without keys and file the simulator makes a key pair and lets it
   * in: `Simulator.clientKeyFile`.
   */
  authorizedKeysFile?: string;
  /** Policies of the user. Default `ssh`, `read`, `write`. */
  policies?: readonly string[];
  /** What `/system/resource` says. Default `7.24.4 (stable)`. */
  version?: string;
  /** Packages in `/system/package`. Default `routeros` and `rose-storage`. */
  packages?: readonly string[];
  /** Columns after which the text form of `print` wraps. Default 230. */
  textWidth?: number;

  /** Where disks with `nvme-tcp-export=yes` are shown. Default `none`; `loop` needs `exportsDir`, `nvmet` needs `nvmetRoot`. */
  exporter?: "none" | "loop" | "nvmet";
  /** Folder in which the exporter `loop` keeps a file for each export. */
  exportsDir?: string;
  /** The kernel's folder `nvmet` in configfs, for the exporter `nvmet`. */
  nvmetRoot?: string;
  /** Unix socket for faults and state: a line of JSON for a line of JSON. Default: none. */
  controlSocket?: string;
  /** Milliseconds a command takes: by `add`, `print`, … or, more exactly, `disk add`; `line` is added to every line. */
  latency?: Readonly<Record<string, number>>;
  /** Faults from the start. */
  faults?: readonly FaultRule[];
  guesses?: Guesses;
}
