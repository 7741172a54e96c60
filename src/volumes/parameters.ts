import { InvalidArgument } from "../runtime/errors.ts";
import { basePath } from "./path.ts";

/** One parameter of a StorageClass. The reference page of the documentation comes from this table. */
export interface Parameter {
  name: string;
  /** For people. */
  default: string;
  help: string;
  /** Throws {@linkcode InvalidArgument} or says what is wrong. */
  check: (value: string) => string | undefined;
}

/** The keys that the provisioner adds by itself; they are kept in the volume context. */
const FROM_PROVISIONER = "csi.storage.k8s.io/";
const FS_TYPE = `${FROM_PROVISIONER}fstype`;

export const fileSystems: readonly string[] = ["ext4", "ext3", "xfs"];

function wholeNumber(least: number, most: number): (value: string) => string | undefined {
  return (value) =>
    /^-?\d{1,9}$/.test(value) && Number(value) >= least && Number(value) <= most
      ? undefined
      : `give a whole number from ${least} to ${most}`;
}

/** What is wrong with an address, or undefined. */
export function hostName(value: string): string | undefined {
  const plain = value.length <= 253 && (/^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$/.test(value) || isIpv6(value));
  return plain ? undefined : "give an IP address or a host name";
}

function isIpv6(value: string): boolean {
  return /:.*:/.test(value) && /^[0-9A-Fa-f:.]{2,45}$/.test(value);
}

function oneOf(values: readonly string[]): (value: string) => string | undefined {
  return (value) => values.includes(value) ? undefined : `give one of ${values.join(", ")}`;
}

export const parameters: readonly Parameter[] = [
  {
    name: "volumePath",
    default: "--rds-volume-base-path",
    help: "Folder on RouterOS for the volume's file; one of the allowed base paths.",
    check: (value) => void basePath(value),
  },
  {
    name: "nvmeAddress",
    default: "rdsAddress",
    help: "Address that the nodes reach the NVMe/TCP export at.",
    check: hostName,
  },
  { name: "rdsAddress", default: "--rds-address", help: "Default of nvmeAddress.", check: hostName },
  { name: "nvmePort", default: "4420", help: "TCP port of the export.", check: wholeNumber(1, 65535) },
  {
    name: "ctrlLossTmo",
    default: "-1",
    help: "Seconds after which the kernel gives a lost session up; -1: never.",
    check: wholeNumber(-1, 999_999_999),
  },
  {
    name: "reconnectDelay",
    default: "5",
    help: "Seconds between the kernel's attempts to reconnect.",
    check: wholeNumber(1, 999_999_999),
  },
  {
    name: "keepAliveTmo",
    default: "0",
    help: "Seconds between keep-alives; 0: the kernel's default.",
    check: wholeNumber(0, 999_999_999),
  },
  {
    name: "migrationTimeoutSeconds",
    default: "300",
    help: "Seconds after which a live migration is reported as taking too long.",
    check: wholeNumber(30, 3600),
  },
  { name: "fsType", default: "ext4", help: "Filesystem, where the claim names none.", check: oneOf(fileSystems) },
  { name: FS_TYPE, default: "ext4", help: "The same, as Kubernetes spells it.", check: oneOf(fileSystems) },
  { name: "layout", default: "file", help: "How a volume lies on the pool.", check: oneOf(["file"]) },
  { name: "sshPort", default: "", help: "Taken and ignored, as ever.", check: () => undefined },
  { name: "nqnPrefix", default: "", help: "Taken and ignored, as ever.", check: () => undefined },
];

/** What a volume is made from besides its name and size. */
export interface Wishes {
  /** Base path in the form of `/file`, or undefined for the default. */
  base: string | undefined;
  nvmePort: number;
  /** The volume context, without what only the server knows (volumePath, nqn). */
  context: Record<string, string>;
  /** `namespace/name` of the claim, for people who look at RouterOS. */
  claim: string | undefined;
}

/**
 * Checks a StorageClass' parameters and fills in the defaults.
 * @param serverAddress the default of `rdsAddress`
 * @throws {InvalidArgument} naming each parameter that is unknown or wrong, all at once
 */
export function readParameters(given: Readonly<Record<string, string>>, serverAddress: string): Wishes {
  const wrong = Object.entries(given).flatMap(([name, value]) => problemWith(name, value) ?? []);
  if (wrong.length > 0) throw new InvalidArgument(`StorageClass parameters are wrong: ${wrong.join("; ")}`);
  const value = (name: string, otherwise: string) => given[name] || otherwise;
  const rdsAddress = value("rdsAddress", serverAddress);
  const fsType = given[FS_TYPE] || given["fsType"];
  const [namespace, claim] = [given[`${FROM_PROVISIONER}pvc/namespace`], given[`${FROM_PROVISIONER}pvc/name`]];
  const provisioner = Object.entries(given).filter(([name]) => name.startsWith(FROM_PROVISIONER) && name !== FS_TYPE);
  return {
    base: given["volumePath"] ? basePath(given["volumePath"]) : undefined,
    nvmePort: Number(value("nvmePort", "4420")),
    claim: claim && [namespace, claim].filter(Boolean).join("/"),
    context: {
      rdsAddress,
      nvmeAddress: value("nvmeAddress", rdsAddress),
      nvmePort: value("nvmePort", "4420"),
      ctrlLossTmo: value("ctrlLossTmo", "-1"),
      reconnectDelay: value("reconnectDelay", "5"),
      keepAliveTmo: value("keepAliveTmo", "0"),
      migrationTimeoutSeconds: value("migrationTimeoutSeconds", "300"),
      layout: value("layout", "file"),
      ...(fsType ? { fsType } : {}),
      ...Object.fromEntries(provisioner),
    },
  };
}

function problemWith(name: string, value: string): string | undefined {
  const parameter = parameters.find((parameter) => parameter.name === name);
  if (!parameter) {
    if (name.startsWith(FROM_PROVISIONER)) return undefined;
    return `'${name}' is unknown (there are ${parameters.map((parameter) => parameter.name).join(", ")})`;
  }
  if (value === "") return undefined;
  try {
    const problem = parameter.check(value);
    return problem && `${name}='${value}': ${problem}`;
  } catch (error) {
    return `${name}: ${(error as Error).message}`;
  }
}
