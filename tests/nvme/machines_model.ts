import { assertEquals } from "@std/assert";
import { pause } from "../../src/runtime/deadline.ts";
import { random } from "../../src/attachments/fake_clock.ts";
import type { Machines, NodeMachine } from "../lab/machines/machines.ts";
import { crash } from "./machines_gates.ts";
import { persistently, refusal } from "./machines_steps.ts";
import { type Kind, MachineVolume } from "./machines_volume.ts";

const pods = ["one", "two"] as const;
type Pod = typeof pods[number];
type Call = { what: "stage" | "unstage" } | { what: "publish" | "unpublish"; pod: Pod };
type Pick = (below: number) => number;

/** A volume, and what must be true of it on the node. */
interface Modelled {
  volume: MachineVolume;
  staged: boolean;
  published: Set<Pod>;
  /** What was written into it last. */
  data: string;
  /** Whether it has a filesystem, if it is to have one. */
  made: boolean;
}

const RECORDS = "/var/lib/kubelet/plugins/rds.csi.srvlab.io/volumes";
const STEPS = 15;
/** Bytes that hold what is written. */
const BLOCK = 4096;
const opposite = { stage: "unstage", unstage: "stage", publish: "unpublish", unpublish: "publish" } as const;

/**
 * Random histories of an ext4, an xfs and a block volume, side by side on a node whose agent is killed in the middle of
 * calls. After each step what the kernel has is compared with what the calls before must have ended in.
 */
export class Histories {
  /** How many it is: one a volume. */
  static readonly each = 3;

  readonly #node: NodeMachine;
  readonly #pick: Pick;
  readonly #lab: Machines;
  readonly #seed: number;
  readonly #told: string[] = [];
  readonly #began = performance.now();
  #volumes: Modelled[] = [];
  #step = 0;

  constructor(lab: Machines, node: NodeMachine, seed: number) {
    this.#lab = lab;
    this.#node = node;
    this.#seed = seed;
    this.#pick = random(seed);
  }

  /** Runs them to their end. @throws with all that was done when something is not as the model says */
  async run(): Promise<void> {
    try {
      await this.#begin();
      const crashes = new Set([1 + this.#pick(STEPS / 2), 1 + this.#pick(STEPS - 1)]);
      for (this.#step = 1; this.#step <= STEPS; this.#step++) {
        if (crashes.has(this.#step)) await this.#interrupted();
        else await this.#calls();
        await this.#compare();
      }
      await this.#end();
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      throw new Error(`RDS_CSI_SEED=${this.#seed}, ${this.#node.name}:\n${this.#told.join("\n")}\n${message}`, {
        cause: error,
      });
    }
  }

  async #begin(): Promise<void> {
    const kinds: Kind[] = ["ext4", "xfs", "block"];
    this.#volumes = await Promise.all(kinds.map(async (kind) => {
      const volume = await MachineVolume.create(this.#lab, { kind });
      await volume.attach(this.#node);
      return { volume, staged: false, published: new Set<Pod>(), data: "", made: kind === "block" };
    }));
  }

  /** How long it has taken. */
  get seconds(): number {
    return Math.round((performance.now() - this.#began) / 1000);
  }

  #tell(text: string): void {
    this.#told.push(`  ${this.seconds} s, step ${this.#step}: ${text}`);
  }

  /** A call of each volume, or data for it, at the same time. */
  async #calls(): Promise<void> {
    const chosen = this.#volumes.map((modelled) => {
      const place = this.#pick(5) === 0 ? placeOf(modelled) : undefined;
      return { modelled, place, call: this.#callFor(modelled) };
    });
    await Promise.all(chosen.map(async ({ modelled, place, call }) => {
      if (place !== undefined) await this.#write(modelled, place);
      else if (isRefused(modelled, call)) await this.#refused(modelled, call);
      else await this.#done(modelled, call);
    }));
  }

  /** Any call, more often one that changes something. */
  #callFor(modelled: Modelled): Call {
    const call = this.#changing(modelled);
    if (this.#pick(4) > 0) return call;
    const what = (["stage", "unstage", "publish", "unpublish"] as const)[this.#pick(4)] ?? "stage";
    return what === "stage" || what === "unstage" ? { what } : { what, pod: this.#pod() };
  }

  #changing({ staged, published }: Modelled): Call {
    const pod = this.#pod();
    if (!staged) return { what: "stage" };
    if (published.has(pod)) return { what: "unpublish", pod };
    return published.size === 0 && this.#pick(3) === 0 ? { what: "unstage" } : { what: "publish", pod };
  }

  #pod(): Pod {
    return pods[this.#pick(2)] ?? "one";
  }

  async #refused({ volume }: Modelled, call: Call): Promise<void> {
    this.#tell(`${described(volume, call)}, to be refused`);
    assertEquals((await refusal(() => this.#send(volume, call))).code, "FAILED_PRECONDITION", described(volume, call));
  }

  async #done(modelled: Modelled, call: Call): Promise<void> {
    const { volume, published } = modelled;
    this.#tell(described(volume, call));
    await persistently(() => this.#send(volume, call));
    switch (call.what) {
      case "publish":
        return void published.add(call.pod);
      case "unpublish":
        return void published.delete(call.pod);
      case "stage":
        [modelled.staged, modelled.made] = [true, true];
        return;
      case "unstage":
        modelled.staged = false;
        // As the kubelet does. It is not empty when something of the volume was written beneath its mount.
        await this.#node.machine.guest.sh(`[ ! -e ${volume.stagingPath} ] || rmdir ${volume.stagingPath}`);
    }
  }

  async #send(volume: MachineVolume, call: Call): Promise<void> {
    if ("pod" in call) await volume[call.what](this.#node, call.pod);
    else await volume[call.what](this.#node);
  }

  /** A changing call of each volume, and the agent ends after a while. Then each is repeated, or taken back. */
  async #interrupted(): Promise<void> {
    const calls = this.#volumes.map((modelled) => ({ modelled, call: this.#changing(modelled) }));
    const longest = Math.max(...calls.map(({ call }) => usual(call.what)));
    const delay = Math.round(longest * this.#pick(1000) / 1000);
    const how = (["kill", "kill", "orphans", "SIGTERM"] as const)[this.#pick(4)] ?? "kill";
    const text = calls.map(({ modelled, call }) => described(modelled.volume, call)).join(", ");
    this.#tell(`${text}; after ${delay} ms ${how}`);
    const under = calls.map(({ modelled, call }) => {
      const began = performance.now();
      return this.#send(modelled.volume, call).then(() => took(call.what, performance.now() - began), () => {});
    });
    await pause(delay);
    if (how === "SIGTERM") await this.#terminated();
    else await crash(this.#node, { orphans: how === "orphans" });
    await Promise.all(under);
    await this.#node.startAgent();
    await Promise.all(calls.map(async ({ modelled, call }) => {
      // A mkfs that was cut off between the superblock's copies and the superblock is finished while it is connected alone.
      const next = !modelled.made || this.#pick(3) > 0 ? call : { ...call, what: opposite[call.what] } as Call;
      await this.#done(modelled, next);
    }));
  }

  async #terminated(): Promise<void> {
    await this.#node.agent.kill("SIGTERM");
    assertEquals(await this.#node.agent.ended(), 0, "SIGTERM is a good end");
  }

  async #write(modelled: Modelled, place: string): Promise<void> {
    modelled.data = `step ${this.#step} of ${this.#seed}`;
    this.#tell(`write ${modelled.volume.kind}`);
    await this.#node.machine.guest.sh(
      `printf '%-${BLOCK}s' '${modelled.data}' | dd of=${place} bs=${BLOCK} iflag=fullblock conv=notrunc,fsync status=none`,
    );
  }

  async #compare(): Promise<void> {
    const seen = await look(this.#node, this.#volumes);
    assertEquals(seen, this.#volumes.map(expected), `after step ${this.#step}`);
  }

  /** Everything goes, with calls as the kubelet repeats them. */
  async #end(): Promise<void> {
    for (const modelled of this.#volumes) await this.#done(modelled, { what: "stage" });
    await this.#compare();
    await Promise.all(this.#volumes.map(async (modelled) => {
      for (const pod of pods) await this.#done(modelled, { what: "unpublish", pod });
      for (let twice = 0; twice < 2; twice++) await this.#done(modelled, { what: "unstage" });
    }));
    await this.#compare();
    const ids = this.#volumes.map(({ volume }) => volume.id).join("|");
    assertEquals(await this.#node.machine.guest.sh(`ls ${RECORDS} | grep -E '${ids}' || true`), "", "records");
    await Promise.all(this.#volumes.map(async ({ volume }) => {
      await volume.detach(this.#node);
      await volume.delete();
    }));
  }
}

/** How long calls took at most of late, in milliseconds: they are to be killed at any point. */
const longest = new Map<Call["what"], number>();

function usual(what: Call["what"]): number {
  return longest.get(what) ?? 1500;
}

function took(what: Call["what"], milliseconds: number): void {
  longest.set(what, Math.max(milliseconds, usual(what) * 0.8));
}

function described({ kind }: MachineVolume, call: Call): string {
  return `${call.what}${"pod" in call ? ` ${call.pod}` : ""} ${kind}`;
}

function isRefused({ staged, published }: Modelled, { what }: Call): boolean {
  return what === "publish" && !staged || what === "unstage" && published.size > 0;
}

/** Where the volume's data can be reached. */
function placeOf({ volume, staged, published: [pod] }: Modelled): string | undefined {
  if (volume.kind === "block") return pod && volume.targetPath(pod);
  if (!staged) return undefined;
  return `${pod ? volume.targetPath(pod) : volume.stagingPath}/data`;
}

/** What of a volume is on a node. Numbers are those of the session's device: `own`. */
interface Seen {
  sessions: string[];
  /** What is at the staging path and at each target: how often `own` is mounted there, or a node of it. */
  places: string[];
  record: string;
  data: string;
}

function expected(modelled: Modelled): Seen {
  const { volume, staged, published, data } = modelled;
  const isBlock = volume.kind === "block";
  const at = (is: boolean, here: string) => is ? here : "nothing";
  const record = isBlock ? `block ${pods.filter((pod) => published.has(pod)).join(" ")}`.trim() : "filesystem";
  return {
    sessions: staged ? ["live"] : [],
    places: [
      isBlock ? "no mount" : staged ? "own mount" : "no mount",
      ...pods.map((pod) => at(published.has(pod), isBlock ? "own node" : "own mount")),
    ],
    record: staged ? record : "none",
    data: placeOf(modelled) ? data : "",
  };
}

/** Looks at the kernel and at the records, all at one moment, and with few programs: each takes its time in a machine. */
async function look(node: NodeMachine, volumes: readonly Modelled[]): Promise<Seen[]> {
  const paths = volumes.flatMap(({ volume }) => [volume.stagingPath, ...pods.map((pod) => volume.targetPath(pod))]);
  const data = volumes.map((modelled) => {
    const place = placeOf(modelled);
    return `echo "data $(${
      place ? `[ ! -e ${place} ] || dd if=${place} bs=${BLOCK} count=1 iflag=direct status=none` : ":"
    })"`;
  });
  const text = await node.machine.guest.sh(`
cd /sys/class/nvme-subsystem
grep -H . */subsysnqn */nvme*/state */nvme*n*/dev 2>/dev/null || true
stat -c 'path %n %F,%Hr:%Lr' ${paths.join(" ")} 2>/dev/null || true
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
    places: [volume.stagingPath, ...pods.map((pod) => volume.targetPath(pod))].map((path, place) => {
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
  return info === "" ? "nothing" : info === `block special file,${own}` ? "own node" : info;
}

function recordSeen(volume: MachineVolume, text: string, own: string): string {
  if (text === "") return "none";
  const { kind, nqn, majorMinor, targets = [], mkfs, unstaging, readOnlyTarget, remounting } = JSON.parse(text);
  const isClean = nqn === volume.nqn && majorMinor === own && !mkfs && !unstaging && !readOnlyTarget && !remounting;
  if (!isClean) return text;
  return [kind, ...pods.filter((pod) => targets.includes(volume.targetPath(pod)))].join(" ");
}
