/**
 * Random histories of attachments against a model of the API server, with two controllers whose watches are behind by
 * different times, attachers whose patches arrive late or never, restarts, deletions and a clock that jumps.
 * @module
 */
import { assert } from "@std/assert";
import { type AccessMode, type Attachment, decide, SETTLED } from "./decide.ts";

/** Longest way of an attacher's patch, and longest that a watch may be behind before its controller grants nothing. */
const PATCH = 30_000;
const BEHIND = 90_000;

type Row = Omit<Attachment, "seen">;
/** What the API server's log says: the row as it is from then on, or that it is gone. */
type Event = { at: number; uid: string; row: Row | undefined };

/** A small generator with a seed, so that a history that fails can be had again. */
function random(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below;
  };
}

/** A controller: what its watch has shown so far. */
class Replica {
  readonly view = new Map<string, Attachment>();
  #position = 0;

  /** Reads the log up to a position. */
  follow(log: readonly Event[], to: number, now: number): void {
    for (; this.#position < to; this.#position++) {
      const { uid, row } = log[this.#position] as Event;
      if (row) this.view.set(uid, { ...row, seen: this.view.get(uid)?.seen ?? now });
      else this.view.delete(uid);
    }
  }

  /** Starts anew, or lists again after its watch was broken: sees what is there, and nothing of what was. */
  restart(log: readonly Event[], rows: ReadonlyMap<string, Row>, now: number): void {
    this.view.clear();
    for (const [uid, row] of rows) this.view.set(uid, { ...row, seen: now });
    this.#position = log.length;
  }

  isBehind(log: readonly Event[], now: number): boolean {
    const next = log[this.#position];
    return next !== undefined && now - next.at > BEHIND;
  }

  get position(): number {
    return this.#position;
  }
}

/** The API server with one volume, two controllers and their attachers. */
class World {
  readonly #pick: (below: number) => number;
  readonly #mode: AccessMode;
  readonly #rows = new Map<string, Row>();
  readonly #log: Event[] = [];
  readonly #replicas = [new Replica(), new Replica()];
  #patches: { uid: string; at: number }[] = [];
  #now = 0;
  #skew = 0;
  #made = 0;

  constructor(seed: number) {
    this.#pick = random(seed);
    this.#mode = this.#pick(2) ? "single" : "multi";
  }

  get most(): number {
    return this.#mode === "single" ? 1 : 2;
  }
  get attached(): number {
    return [...this.#rows.values()].filter(({ attached }) => attached).length;
  }
  get wanted(): number {
    return [...this.#rows.values()].filter(({ deleting }) => !deleting).length;
  }

  step(): void {
    const what = this.#pick(16);
    if (what < 3) this.#create();
    else if (what < 9) this.#publish();
    else if (what < 11) this.#remove();
    else if (what === 11) this.#replicas[this.#pick(2)]?.restart(this.#log, this.#rows, this.#now);
    else if (what === 12) this.#skew = (this.#pick(41) - 20) * (this.#pick(2) ? 1000 : 30_000);
    else this.#pass([1, 300, 5000, 40_000, SETTLED][this.#pick(5)] ?? 1);
  }

  /** Everybody goes on for long enough, and nobody makes anything new. */
  settle(): void {
    for (let round = 0; round < 3 * MOST_NODES; round++) {
      this.#pass(SETTLED);
      for (const replica of this.#replicas) replica.follow(this.#log, this.#log.length, this.#now);
      for (const [uid, row] of this.#rows) if (row.deleting) this.#end(uid);
      this.#pass(1);
      for (const replica of this.#replicas) replica.follow(this.#log, this.#log.length, this.#now);
      for (const [uid, { nodeId }] of this.#rows) this.#ask(this.#replicas[0] as Replica, uid, nodeId, 0);
      this.#pass(1);
    }
  }

  #create(): void {
    const nodeId = `n${this.#pick(MOST_NODES)}`;
    if ([...this.#rows.values()].some((row) => row.nodeId === nodeId)) return;
    const uid = `${this.#pick(1000)}-${this.#made++}`;
    const created = Math.floor((this.#now + this.#skew) / 1000) * 1000;
    this.#write(uid, { uid, nodeId, attached: false, deleting: false, created });
  }

  /** One of the attachers, which may both believe that they lead, asks its controller. */
  #publish(): void {
    const replica = this.#replicas[this.#pick(2)] as Replica;
    const row = [...this.#rows.values()][this.#pick(Math.max(1, this.#rows.size))];
    if (row) this.#ask(replica, row.uid, row.nodeId, this.#pick(3) ? this.#pick(PATCH) : undefined);
  }

  /** @param patch milliseconds until the attacher's patch arrives; undefined: it never does */
  #ask(replica: Replica, uid: string, nodeId: string, patch: number | undefined): void {
    if (replica.isBehind(this.#log, this.#now)) return;
    const decision = decide([...replica.view.values()], { nodeId, mode: this.#mode }, this.#now);
    const isThis = replica.view.has(uid);
    if (decision.kind === "grant" && isThis && patch !== undefined) this.#patches.push({ uid, at: this.#now + patch });
  }

  /** Deletes one: first marked, then (unpublished and) gone. */
  #remove(): void {
    const row = [...this.#rows.values()][this.#pick(Math.max(1, this.#rows.size))];
    if (!row) return;
    if (row.deleting) this.#end(row.uid);
    else this.#write(row.uid, { ...row, deleting: true });
  }

  #end(uid: string): void {
    this.#rows.delete(uid);
    this.#log.push({ at: this.#now, uid, row: undefined });
  }

  #write(uid: string, row: Row): void {
    this.#rows.set(uid, row);
    this.#log.push({ at: this.#now, uid, row });
  }

  /** Time goes on: patches arrive in order, watches catch up with some of what happened. */
  #pass(milliseconds: number): void {
    const until = this.#now + milliseconds;
    const due = this.#patches.filter(({ at }) => at <= until).sort((a, b) => a.at - b.at);
    this.#patches = this.#patches.filter(({ at }) => at > until);
    for (const { uid, at } of due) {
      this.#now = Math.max(this.#now, at);
      const row = this.#rows.get(uid);
      if (row && !row.attached) this.#write(uid, { ...row, attached: true });
    }
    this.#now = until;
    for (const replica of this.#replicas) {
      const unseen = this.#log.length - replica.position;
      replica.follow(this.#log, replica.position + this.#pick(unseen + 1), this.#now);
    }
  }
}

const MOST_NODES = 4;
const STEPS = Number(Deno.env.get("RDS_CSI_MODEL_STEPS") ?? 1_000_000);
const HISTORY = 40;

Deno.test("decide() lets no history have a second holder of a ReadWriteOnce volume nor a third of any, nor a volume stuck", () => {
  const first = Number(Deno.env.get("RDS_CSI_SEED") ?? Date.now() % 1_000_000_000);
  for (let seed = first; seed < first + STEPS / HISTORY; seed++) {
    const world = new World(seed);
    for (let step = 0; step < HISTORY; step++) {
      world.step();
      assert(world.attached <= world.most, `RDS_CSI_SEED=${seed}: ${world.attached} nodes have it after step ${step}`);
    }
    world.settle();
    const due = Math.min(world.wanted, world.most);
    assert(
      world.attached === due,
      `RDS_CSI_SEED=${seed}: ${world.attached} nodes have it where ${due} may and want to`,
    );
  }
});
