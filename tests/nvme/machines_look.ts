import type { NodeMachine } from "../lab/machines/node_machine.ts";
import { type Attached, placeOf } from "./machines_steps.ts";

export const pods = ["one", "two"] as const;
export type Pod = typeof pods[number];

/** A volume, and what must be true of it on the node. */
export interface Modelled {
  volume: Attached;
  staged: boolean;
  published: Set<Pod>;
  /** What was written into it last. */
  data: string;
  /** Whether it has a filesystem, if it is to have one. */
  made: boolean;
}

export const RECORDS = "/var/lib/kubelet/plugins/rds.csi.srvlab.io/volumes";
/** Bytes that hold what is written. */
export const BLOCK = 4096;

export function targetOf(volume: Attached, pod: Pod): string {
  return placeOf(volume, pod).targetPath;
}

/** Where the volume's data can be reached. */
export function dataOf({ volume, staged, published: [pod] }: Modelled): string | undefined {
  if (volume.kind === "block") return pod && targetOf(volume, pod);
  if (!staged) return undefined;
  return `${pod ? targetOf(volume, pod) : volume.stagingPath}/data`;
}

/** What of a volume is on a node. Numbers are those of the session's device: `own`. */
export interface Seen {
  sessions: string[];
  /** What is at the staging path and at each target: how often `own` is mounted there, or a node of it. */
  places: string[];
  record: string;
  data: string;
}

/** Looks at the kernel and at the records, all at one moment, and with few programs: each takes its time in a machine. */
export async function look(node: NodeMachine, volumes: readonly Modelled[]): Promise<Seen[]> {
  const paths = volumes.flatMap(({ volume }) => [volume.stagingPath, ...pods.map((pod) => targetOf(volume, pod))]);
  const data = volumes.map((modelled) => {
    const place = dataOf(modelled);
    return `echo "data $(${
      place ? `[ ! -e ${place} ] || /bin/dd if=${place} bs=${BLOCK} count=1 iflag=direct status=none` : ":"
    })"`;
  });
  const free = volumes.filter(({ staged }) => !staged).map(({ volume }) => volume.stagingPath);
  const text = await node.machine.guest.quick(`
# As the kubelet does. It is not empty when something of the volume was written beneath its mount.
for path in ${free.join(" ")}; do [ ! -e $path ] || rmdir $path; mkdir $path; done
cd /sys/class/nvme-subsystem
grep -H . */subsysnqn */nvme*/state */nvme*n*/dev 2>/dev/null || true
stat -c 'path %n %F,%t:%T' ${paths.join(" ")} 2>/dev/null || true
grep -hF ' /var/lib/kubelet/' /proc/1/mountinfo || true
grep -h . ${RECORDS}/*.json 2>/dev/null || true
${data.join("\n")}`);
  const lines = text.split("\n");
  return volumes.map((modelled, at) => seenOf(modelled, lines, at));
}

function seenOf({ volume }: Modelled, lines: readonly string[], at: number): Seen {
  const subsystems = lines.filter((line) => line.endsWith(`/subsysnqn:${volume.nqn}`)).map((line) =>
    line.split("/")[0]
  );
  const ofOwn = (end: string) =>
    lines.filter((line) => line.includes(`/${end}:`) && subsystems.includes(line.split("/")[0]))
      .map((line) => line.slice(line.indexOf(":") + 1));
  const [own = "none"] = ofOwn("dev");
  const record = lines.find((line) => line.startsWith(`{"volumeId":"${volume.id}"`)) ?? "";
  const data = lines.filter((line) => line.startsWith("data "))[at] ?? "";
  return {
    sessions: ofOwn("state"),
    places: [volume.stagingPath, ...pods.map((pod) => targetOf(volume, pod))].map((path, place) => {
      const info = lines.find((line) => line.startsWith(`path ${path} `))?.slice(`path ${path} `.length) ?? "";
      const mounts = lines.map((line) => line.split(" ")).filter(([, , , , target]) => target === path);
      return placeSeen(info, mounts.map(([, , number, , , options]) => `${number} ${options}`), own, place === 0);
    }),
    record: recordSeen(volume, record, own),
    data: data.slice("data ".length).trim(),
  };
}

function placeSeen(info: string, mounts: readonly string[], own: string, isStaging: boolean): string {
  if (mounts.length === 1 && mounts[0]?.startsWith(`${own} rw`)) return "own mount";
  if (mounts.length > 0) return mounts.join(", ");
  // The kubelet's folder is there, or not.
  if (isStaging && ["", "directory,0:0"].includes(info)) return "no mount";
  return info === "" ? "nothing" : info === `block special file,${hexOf(own)}` ? "own node" : info;
}

/** A device number as stat has it. */
function hexOf(majorMinor: string): string {
  return majorMinor.split(":").map((part) => Number(part).toString(16)).join(":");
}

function recordSeen(volume: Attached, text: string, own: string): string {
  if (text === "") return "none";
  const { kind, nqn, majorMinor, targets = [], mkfs, unstaging, readOnlyTarget, remounting } = JSON.parse(text);
  const isClean = nqn === volume.nqn && majorMinor === own && !mkfs && !unstaging && !readOnlyTarget && !remounting;
  if (!isClean) return text;
  return [kind, ...pods.filter((pod) => targets.includes(targetOf(volume, pod)))].join(" ");
}
