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
 * A random history of an ext4, an xfs and a block volume on a node whose agent is killed in the middle of calls. After each
 * step what the kernel has is compared with what the calls before must have ended in.
 */
export class History {
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

  /** Runs it to its end. @throws with all that was done when something is not as the model says */
  async run(): Promise<void> {
    try {
      await this.#begin();
      const crashes = new Set([1 + this.#pick(STEPS - 1), 1 + this.#pick(STEPS * 3)]);
      for (this.#step = 1; this.#step <= STEPS; this.#step++) {
        if (crashes.has(this.#step)) await this.#interrupted();
        else if (this.#pick(5) === 0) await this.#write();
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

  /** A call of one volume, or of all at the same time. */
  async #calls(): Promise<void> {
    const one = this.#pick(this.#volumes.length * 2);
    const chosen = this.#volumes[one] ? [this.#volumes[one]] : this.#volumes;
    const calls = chosen.map((modelled) => ({ modelled, call: this.#callFor(modelled) }));
    await Promise.all(calls.map(async ({ modelled, call }) => {
      if (isRefused(modelled, call)) await this.#refused(modelled, call);
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

  async #write(): Promise<void> {
    const data = `step ${this.#step} of ${this.#seed}`;
    this.#tell("write");
    const lines = this.#volumes.flatMap((modelled) => {
      const place = placeOf(modelled);
      if (place === undefined) return [];
      modelled.data = data;
      return [
        `printf '%-${BLOCK}s' '${data}' | dd of=${place} bs=${BLOCK} iflag=fullblock conv=notrunc,fsync status=none`,
      ];
    });
    if (lines.length > 0) await this.#node.machine.guest.sh(lines.join("\n"));
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

/** Looks at the kernel and at the records, all at one moment. */
async function look(node: NodeMachine, volumes: readonly Modelled[]): Promise<Seen[]> {
  const scripts = volumes.map((modelled) => {
    const { volume } = modelled;
    const paths = [volume.stagingPath, ...pods.map((pod) => volume.targetPath(pod))];
    const place = placeOf(modelled);
    return `
for s in /sys/class/nvme-subsystem/*; do
  [ "$(cat $s/subsysnqn 2>/dev/null)" = ${volume.nqn} ] || continue
  for d in $s/nvme*; do
    [ ! -e $d/state ] || echo session $(cat $d/state)
    [ ! -e $d/size ] || echo device $(cat $d/dev)
  done
done
for p in ${paths.join(" ")}; do
  echo place $(stat -c '%F,%Hr:%Lr' $p 2>/dev/null | tr -d ' ') $(awk -v p=$p '$5 == p { printf "mount:%s:%s ", $3, $6 }' /proc/1/mountinfo)
done
echo record $(cat ${RECORDS}/${volume.id}.json 2>/dev/null)
echo data $(${place ? `[ ! -e ${place} ] || dd if=${place} bs=${BLOCK} count=1 iflag=direct status=none` : ":"})
echo end`;
  });
  const parts = (await node.machine.guest.sh(scripts.join("\n"))).split("\nend");
  return volumes.map((modelled, at) => seenOf(modelled, parts[at]?.split("\n") ?? []));
}

function seenOf({ volume }: Modelled, lines: string[]): Seen {
  const all = (name: string) =>
    lines.filter((line) => line.startsWith(name)).map((line) => line.slice(name.length).trim());
  const [own = "none"] = all("device");
  const [record = ""] = all("record");
  return {
    sessions: all("session"),
    places: all("place").map((text, at) => placeSeen(text, own, at === 0)),
    record: recordSeen(volume, record, own),
    data: all("data")[0] ?? "",
  };
}

function placeSeen(text: string, own: string, isStaging: boolean): string {
  const [info = "", ...mounts] = text.split(" ");
  if (mounts.length === 1 && mounts[0]?.startsWith(`mount:${own}:rw`)) return "own mount";
  if (mounts.length > 0) return text;
  // The kubelet's folder is there, or not.
  if (isStaging && ["", "directory,0:0"].includes(info)) return "no mount";
  return info === "" ? "nothing" : info === `blockspecialfile,${own}` ? "own node" : info;
}

function recordSeen(volume: MachineVolume, text: string, own: string): string {
  if (text === "") return "none";
  const { kind, nqn, majorMinor, targets = [], mkfs, unstaging, readOnlyTarget, remounting } = JSON.parse(text);
  const isClean = nqn === volume.nqn && majorMinor === own && !mkfs && !unstaging && !readOnlyTarget && !remounting;
  if (!isClean) return text;
  return [kind, ...pods.filter((pod) => targets.includes(volume.targetPath(pod)))].join(" ");
}
