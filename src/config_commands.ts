import type { settings } from "./config.ts";

/** Something that the program does once, and then it ends. */
export interface Command {
  /** What it does, for `--help`: a line each. */
  about: readonly string[];
  /** The settings that it reads; all others it takes and leaves alone, so that a container's own arguments may be repeated. */
  settings: readonly (keyof typeof settings)[];
  /** Those without which it does not begin. */
  required: readonly (keyof typeof settings)[];
}

const report = ["logLevel", "logFormat", "output"] as const;
const kubernetes = ["driverName", "standalone", "kubeconfig", "namespace", "kubeDeadline"] as const;

const ofNode = [
  ...report,
  "managedNqnPrefix",
  "nodeId",
  ...kubernetes,
  "endpoint",
  "metricsAddress",
  "procRoot",
  "sysfsRoot",
  "devRoot",
  "nvmeEtcRoot",
  "kubeletDir",
  "registrationDir",
  "hostNqn",
  "hostId",
  "loadModules",
] as const;

const routerOs = [
  "rdsAddress",
  "rdsPort",
  "rdsUser",
  "rdsKeyFile",
  "rdsHostKey",
  "rdsInsecureSkipVerify",
  "rdsVolumeBasePath",
] as const;

const ofController = [
  ...report,
  "managedNqnPrefix",
  ...kubernetes,
  ...routerOs,
  "rdsReadDeadline",
  "rdsAllowedBasePaths",
  "capacityRatio",
  "capacityReserve",
  "clusterId",
  "leaseDuration",
  "endpoint",
  "metricsAddress",
] as const;

/** Every command there is, by its words. */
export const commands = {
  "diagnose": {
    about: [
      "Looks at this node and says what is wrong and what to do about it. It changes nothing, and touches no device whose",
      "session is not live. Run it in the node's pod: kubectl exec -n <namespace> <pod> -c rds-csi -- rds-csi diagnose",
    ],
    settings: ofNode,
    required: [],
  },
  "diagnose controller": {
    about: [
      "Looks at RouterOS and at what Kubernetes has of it, from where the controller runs. It changes nothing.",
    ],
    settings: ofController,
    required: [],
  },
  "diagnose probe": {
    about: [
      "Finds out what this RouterOS does where its manual does not say, with one small scratch disk of a name of its own,",
      "which it removes, also when it is interrupted. It prints a table that is worth sending with a report.",
      "Nothing is done without --yes-make-a-scratch-disk.",
    ],
    settings: [
      ...report,
      ...routerOs,
      "rdsCreateDeadline",
      "yesMakeAScratchDisk",
      "scratchSize",
      "nvmeAddress",
      "sysfsRoot",
      "devRoot",
    ],
    required: ["rdsAddress"],
  },
  "diagnose bundle": {
    about: [
      "One archive (.tar.gz) with what there is to say: reports, metrics, settings, versions, logs where they can be read;",
      "keys, passwords and tokens are taken out. It is written to standard output unless --file names a file.",
    ],
    settings: [...new Set([...ofNode, ...ofController, "file", "logs"] as const)],
    required: [],
  },
  "prestop": {
    about: [
      "What the node's pod runs before it stops (its preStop hook): while the node is being drained it waits, 25 s at most,",
      "until no volume is attached to it any more; otherwise it ends at once.",
    ],
    settings: ["logLevel", "logFormat", "nodeId", "driverName", "kubeconfig", "namespace", "kubeDeadline"],
    required: ["nodeId"],
  },
} as const satisfies Readonly<Record<string, Command>>;

export type CommandName = keyof typeof commands;

/** The command that the words of a command line name. */
export function commandNamed(words: readonly string[]): CommandName | undefined {
  const said = words.join(" ");
  return (Object.keys(commands) as CommandName[]).find((name) => name === said);
}
