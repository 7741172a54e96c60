/**
 * A model of one volume for tests: the API server's log, nodes and what they can really write to, RouterOS with generations
 * of the NQN. `model_controller.ts` works on it, `model_world.ts` makes histories of it.
 * @module
 */
import type { NodeObject } from "./danger.ts";
import type { AccessMode, Attachment } from "./decide.ts";
import { random } from "./fake_clock.ts";

/** A script that RouterOS got and did not answer takes effect within this or never: milliseconds. */
const LATE = 30_000;
const NODES = 3;

/** The volume as nodes list it. */
export const VOLUME = { driver: "d", handle: "h" };

/** A VolumeAttachment. */
export interface Row extends Omit<Attachment, "seen"> {
  /** The generation in its publish context. */
  nqn: number | undefined;
}

/** What happened to an attachment; no row: it went. */
export interface Entry {
  at: number;
  uid: string;
  row: Row | undefined;
}

/** A machine and its Node. */
export interface Machine {
  exists: boolean;
  ready: boolean;
  outOfService: boolean;
  inUse: boolean;
  /** The generation that the kubelet has read and will connect to. */
  told: number | undefined;
  /** The generation that it is connected to: it writes if that is the present one. */
  session: number | undefined;
}

/** The note of an owed fence: a generation, or that nobody knows which. */
export type Note = number | "any" | undefined;

/** What all controllers see the same of, and time. */
export class Cluster {
  readonly pick: (below: number) => number;
  readonly mode: AccessMode;
  readonly rows = new Map<string, Row>();
  readonly log: Entry[] = [];
  readonly machines = new Map<string, Machine>();
  #underWay: { at: number; work: () => void }[] = [];
  readonly #open = new Map<string, number>();
  /** UIDs of attachments that were asked for again before the last request's answer had arrived: by two attachers. */
  readonly crossed = new Set<string>();
  /** The generation that RouterOS exports. */
  present = 0;
  /** The PV's annotation. */
  note: Note;
  now = 0;
  /** Nothing fails or is late any more. */
  calm = false;

  constructor(seed: number) {
    this.pick = random(seed);
    this.mode = this.pick(2) ? "single" : "multi";
    const well = { exists: true, ready: true, outOfService: false, inUse: false, told: undefined, session: undefined };
    for (let i = 0; i < NODES; i++) this.machines.set(`n${i}`, { ...well });
  }

  /** How many nodes may have the volume. */
  get most(): number {
    return this.mode === "single" ? 1 : 2;
  }

  get attached(): Row[] {
    return [...this.rows.values()].filter(({ attached }) => attached);
  }

  /** The nodes that can write to the volume. */
  get writers(): string[] {
    return [...this.machines].flatMap(([nodeId, { session }]) => session === this.present ? [nodeId] : []);
  }

  /** Those of them whose attachment is gone. */
  get left(): string[] {
    return this.writers.filter((nodeId) => !this.rows.has(nodeId));
  }

  any<T>(all: Iterable<T>): T | undefined {
    const list = [...all];
    return list[this.pick(Math.max(1, list.length))];
  }

  machine(nodeId: string): Machine {
    return this.machines.get(nodeId) as Machine;
  }

  /** A node as the API shows it. */
  node(nodeId: string): NodeObject | undefined {
    const { exists, ready, outOfService, inUse } = this.machine(nodeId);
    if (!exists) return undefined;
    return {
      metadata: { name: nodeId },
      spec: { taints: outOfService ? [{ key: "node.kubernetes.io/out-of-service" }] : [] },
      status: {
        conditions: [{ type: "Ready", status: ready ? "True" : "Unknown" }],
        volumesInUse: inUse ? [`kubernetes.io/csi/${VOLUME.driver}^${VOLUME.handle}`] : [],
      },
    };
  }

  write(row: Row): void {
    this.rows.set(row.nodeId, row);
    this.log.push({ at: this.now, uid: row.uid, row });
  }

  drop({ nodeId, uid }: Row): void {
    this.rows.delete(nodeId);
    this.log.push({ at: this.now, uid, row: undefined });
  }

  /** An attachment is asked for. */
  begin(uid: string): void {
    const open = this.#open.get(uid) ?? 0;
    if (open > 0) this.crossed.add(uid);
    this.#open.set(uid, open + 1);
  }

  /** The answer has arrived, or never will. */
  end(uid: string): void {
    this.#open.set(uid, (this.#open.get(uid) ?? 0) - 1);
  }

  /** RouterOS does it; or refuses; or says nothing, and does it later or never. @returns whether it is seen to be done */
  fence(from: number, to: number): boolean {
    const happens = this.calm ? 3 : this.pick(8);
    const work = () => void (this.present === from && (this.present = to));
    if (happens === 1) this.after(this.pick(LATE), work);
    if (happens > 1) work();
    return happens > 1 && this.present === to;
  }

  /** Something is on its way, and has its effect then. */
  after(milliseconds: number, work: () => void): void {
    this.#underWay.push({ at: this.now + milliseconds, work });
  }

  /** Time goes on, and what is on its way arrives in order. */
  pass(milliseconds: number, arrived: () => void): void {
    const until = this.now + milliseconds;
    const due = this.#underWay.filter(({ at }) => at <= until).sort((a, b) => a.at - b.at);
    this.#underWay = this.#underWay.filter(({ at }) => at > until);
    for (const { at, work } of due) {
      this.now = Math.max(this.now, at);
      work();
      arrived();
    }
    this.now = until;
  }
}
