import { assertEquals } from "@std/assert";
import { pause } from "../../src/runtime/deadline.ts";
import { random } from "../../src/attachments/fake_clock.ts";
import type { Machines } from "../lab/machines/machines.ts";
import type { NodeMachine } from "../lab/machines/node_machine.ts";
import { crash } from "./machines_gates.ts";
import { BLOCK, dataOf, look, type Modelled, type Pod, pods, RECORDS, type Seen, targetOf } from "./machines_look.ts";
import {
  attach,
  type Attached,
  deleteVolume,
  detach,
  makeVolume,
  persistently,
  placeOf,
  publishOnce,
  refusal,
  stageOnce,
  unpublishOnce,
  unstageOnce,
} from "./machines_steps.ts";

type Call = { what: "stage" | "unstage" } | { what: "publish" | "unpublish"; pod: Pod };
type Pick = (below: number) => number;

/** Of one node's volumes at a time: starting the agent anew is what takes longest, and they share it. */
const kinds = ["ext4", "xfs", "block", "ext4", "block"] as const;
const STEPS = 15;
const opposite = { stage: "unstage", unstage: "stage", publish: "unpublish", unpublish: "publish" } as const;

/**
 * Random histories of volumes of all kinds, side by side on a node whose agent is killed in the middle of calls. After each
 * step what the kernel has is compared with what the calls before must have ended in.
 */
export class Histories {
  /** How many it is: one a volume. */
  static readonly each = kinds.length;

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
    this.#volumes = await Promise.all(kinds.map(async (kind) => {
      const volume = await attach(this.#lab, await makeVolume(this.#lab, kind), this.#node);
      return { volume, staged: false, published: new Set<Pod>(), data: "", made: kind === "block" };
    }));
    const targets = this.#volumes.flatMap(({ volume }) => pods.map((pod) => targetOf(volume, pod)));
    await this.#node.machine.guest.quick(`mkdir -p ${targets.map((path) => path.replace(/\/[^/]*$/, "")).join(" ")}`);
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
      const place = this.#pick(5) === 0 ? dataOf(modelled) : undefined;
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
    assertEquals((await refusal(() => send(volume, call))).code, "FAILED_PRECONDITION", described(volume, call));
  }

  async #done(modelled: Modelled, call: Call): Promise<void> {
    const { volume, published } = modelled;
    this.#tell(described(volume, call));
    await persistently(() => send(volume, call));
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
    }
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
      return send(modelled.volume, call).then(() => took(call.what, performance.now() - began), () => {});
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
    this.#tell(`write ${modelled.volume.kind} ${modelled.volume.id.slice(0, 12)}`);
    await this.#node.machine.guest.quick(
      `printf '%-${BLOCK}s' '${modelled.data}' | dd of=${place} bs=${BLOCK} iflag=fullblock conv=notrunc,fsync status=none`,
    );
  }

  async #compare(): Promise<void> {
    const seen = await look(this.#node, this.#volumes);
    assertEquals(seen, this.#volumes.map(expected), `after step ${this.#step}`);
  }

  /** Everything goes, with calls as the kubelet repeats them. */
  async #end(): Promise<void> {
    await Promise.all(this.#volumes.map((modelled) => this.#done(modelled, { what: "stage" })));
    await this.#compare();
    await Promise.all(this.#volumes.map(async (modelled) => {
      for (const pod of pods) await this.#done(modelled, { what: "unpublish", pod });
      for (let twice = 0; twice < 2; twice++) await this.#done(modelled, { what: "unstage" });
    }));
    await this.#compare();
    const ids = this.#volumes.map(({ volume }) => volume.id).join("|");
    assertEquals(await this.#node.machine.guest.quick(`ls ${RECORDS} | grep -E '${ids}' || true`), "", "records");
    await Promise.all(this.#volumes.map(async ({ volume }) => {
      await detach(this.#lab, volume);
      await deleteVolume(this.#lab, volume);
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

async function send(volume: Attached, call: Call): Promise<void> {
  switch (call.what) {
    case "stage":
      return await stageOnce(volume);
    case "unstage":
      return await unstageOnce(volume);
    case "publish":
      return await publishOnce(placeOf(volume, call.pod));
    case "unpublish":
      return await unpublishOnce(placeOf(volume, call.pod));
  }
}

function described({ kind, id }: Attached, call: Call): string {
  return `${call.what}${"pod" in call ? ` ${call.pod}` : ""} ${kind} ${id.slice(0, 12)}`;
}

function isRefused({ staged, published }: Modelled, { what }: Call): boolean {
  return what === "publish" && !staged || what === "unstage" && published.size > 0;
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
    data: dataOf(modelled) ? data : "",
  };
}
