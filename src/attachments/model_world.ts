/**
 * A model of one volume for tests: the API server's log, nodes and what they can really write to, RouterOS with
 * generations of the NQN, two controllers that work through their requests step by step (as `kubernetes.ts` does, in the
 * same order, with `decide`, `atWork` and `whyDangerous` themselves), each with an attacher that believes it leads.
 * @module
 */
import { atWork, whyDangerous } from "./danger.ts";
import { type AccessMode, type Attachment, decide, SETTLED } from "./decide.ts";
import { LONGEST_BEHIND } from "./view.ts";

/** Longest way of an attacher's patch, and longest life of a request: milliseconds. */
const PATCH = 30_000;
const REQUEST = 60_000;
/** A script that RouterOS got and did not answer takes effect within this or never: milliseconds. */
const LATE = 30_000;
const MOST_NODES = 3;

/** A small generator with a seed, so that a history that fails can be had again. */
export function random(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below;
  };
}

/**
 * What the world is like and how the manager goes about it. Each of these is a difference between the manager as it is
 * and one that would be safe in more worlds, so that a test can show what each is worth.
 */
export interface Rules {
  /** Patches of attachers land on whatever has the name; else only on the attachment that they were made for. */
  patchesByName: boolean;
  /** A request is granted only for the very attachment that exists, not for one of the node that the view still shows. */
  checksUid: boolean;
  /** An owed fence is made up for at a grant only, never for a node that has the volume already. */
  cutsAtGrantOnly: boolean;
  /** The note of an owed fence is taken away only if it is the one that was made up for. */
  clearsItsOwn: boolean;
  /** The note is written before the fence begins, so that whoever comes next finishes it. */
  owesFirst: boolean;
  /** What is told of a leaving node (is it there, its NQN) is read at that moment, not from the view. */
  readsLeaver: boolean;
  /** An attachment that was never attached leaves without a fence: its node was never told anything. */
  claimsLeaveFreely: boolean;
}

interface Row extends Omit<Attachment, "seen"> {
  /** The generation in its publish context. */
  nqn: number | undefined;
}
type Seen = Row & Attachment;
type Event = { at: number; uid: string; row: Row | undefined };

interface Node {
  exists: boolean;
  ready: boolean;
  outOfService: boolean;
  inUse: boolean;
  /** The generation that the kubelet has read and will connect to. */
  told: number | undefined;
  /** The generation that it is connected to: it writes if that is the present one. */
  session: number | undefined;
}

type Owed = number | "unknown" | undefined;
type Phase = "node" | "known" | "decide" | "release" | "owed" | "read" | "set" | "clear" | "prepare" | "answer";
interface Rpc {
  kind: "publish" | "unpublish";
  uid: string;
  nodeId: string;
  began: number;
  phase: Phase;
  why?: string | undefined;
  all: readonly Seen[];
  held?: Owed;
  paying?: Owed;
  from?: number;
  to?: number;
  told?: number;
  isAlone?: boolean;
}

function indexOf({ nodeId }: { nodeId: string }): number {
  return Number(nodeId.slice(1));
}

/** A controller: what its watch has shown so far, and the one request for the volume that it works at. */
class Replica {
  readonly view = new Map<string, Seen>();
  rpc: Rpc | undefined;
  position = 0;
  /** Its watch shows nothing new for a while. */
  isSilent = false;

  follow(log: readonly Event[], to: number, now: number): void {
    for (; this.position < to; this.position++) {
      const { uid, row } = log[this.position] as Event;
      if (row) this.view.set(uid, { ...row, seen: this.view.get(uid)?.seen ?? now });
      else this.view.delete(uid);
    }
  }

  /** After 410 it replaces all it knows, and keeps since when it has known it; a restart forgets that too. */
  relist(log: readonly Event[], rows: Iterable<Row>, now: number, restarts: boolean): void {
    const before = new Map(this.view);
    this.view.clear();
    for (const row of rows) {
      const seen = restarts ? now : before.get(row.uid)?.seen ?? now;
      this.view.set(row.uid, { ...row, seen });
    }
    this.position = log.length;
    this.isSilent = false;
    if (restarts) this.rpc = undefined;
  }

  isBehind(log: readonly Event[], now: number): boolean {
    const next = log[this.position];
    return next !== undefined && now - next.at > LONGEST_BEHIND;
  }

  all(): Seen[] {
    return [...this.view.values()];
  }
}

/** Everything that has to do with one volume. Give it steps; what it finds wrong it tells. */
export class World {
  readonly #pick: (below: number) => number;
  readonly #rules: Rules;
  readonly #wrong: (what: string) => void;
  readonly #mode: AccessMode;
  readonly #rows = new Map<string, Row>();
  readonly #log: Event[] = [];
  readonly #replicas = [new Replica(), new Replica()] as const;
  readonly #nodes: Node[] = [];
  #later: { at: number; work: () => void }[] = [];
  #present = 0;
  #owed: Owed;
  #now = 0;
  #skew = 0;
  #made = 0;
  #calm = false;

  constructor(seed: number, rules: Rules, wrong: (what: string) => void) {
    this.#pick = random(seed);
    this.#rules = rules;
    this.#wrong = wrong;
    this.#mode = this.#pick(2) ? "single" : "multi";
    for (let i = 0; i < MOST_NODES; i++) {
      this.#nodes.push({
        exists: true,
        ready: true,
        outOfService: false,
        inUse: false,
        told: undefined,
        session: undefined,
      });
    }
  }

  get #most(): number {
    return this.#mode === "single" ? 1 : 2;
  }
  get #attached(): Row[] {
    return [...this.#rows.values()].filter(({ attached }) => attached);
  }

  step(): void {
    const what = this.#pick(64);
    if (what < 4) this.#create();
    else if (what < 13) this.#ask(this.#pick(2));
    else if (what < 43) this.#advance(this.#replicas[this.#pick(2)] as Replica);
    else if (what < 45) this.#remove();
    else if (what < 51) this.#useNode();
    else if (what < 53) this.#changeNode();
    else if (what < 60) this.#pass([1, 100, 1000, 5000, 20_000, 60_000][this.#pick(6)] ?? 1);
    else if (what === 60) this.#pass(SETTLED);
    else if (what === 61) this.#skew = (this.#pick(41) - 20) * (this.#pick(2) ? 1000 : 30_000);
    else if (what === 62) {
      this.#replicas[this.#pick(2)]?.relist(this.#log, this.#rows.values(), this.#now, this.#pick(2) === 0);
    } else {
      const replica = this.#replicas[this.#pick(2)] as Replica;
      replica.isSilent = !replica.isSilent;
    }
    this.#check();
  }

  /** Everybody goes on for long enough, nodes recover, and nobody makes anything new: then nobody may be stuck. */
  settle(): void {
    this.#calm = true;
    for (const [index, node] of this.#nodes.entries()) {
      Object.assign(node, { exists: true, ready: true, outOfService: false });
      if (!this.#rows.has(`n${index}`)) this.#unmount(node);
    }
    for (let round = 0; round < 4 * MOST_NODES; round++) {
      this.#pass(SETTLED);
      this.#catchUp();
      for (const row of [...this.#rows.values()]) {
        const node = this.#node(indexOf(row));
        if (row.deleting) this.#unmount(node);
        if (row.attached && !row.deleting) continue;
        this.#begin(this.#replicas[0], row.deleting ? "unpublish" : "publish", row);
        while (this.#replicas[0].rpc) this.#advance(this.#replicas[0]);
        this.#pass(1);
        this.#catchUp();
        this.#check();
      }
    }
    const due = Math.min(this.#rows.size, this.#most);
    if (this.#attached.length !== due) this.#wrong(`stuck: ${this.#attached.length} of ${due} have it in the end`);
    for (const { nodeId, nqn } of this.#attached) {
      if (nqn !== this.#present) this.#wrong(`cut off: in the end ${nodeId} has .g${nqn}, and .g${this.#present} is`);
    }
  }

  #node(index: number): Node {
    return this.#nodes[index] as Node;
  }

  #check(): void {
    const attached = this.#attached.length;
    if (attached > this.#most) this.#wrong(`holders: ${attached} nodes have a volume that ${this.#most} may`);
    const writers = this.#nodes.flatMap((node, i) => node.session === this.#present ? [`n${i}`] : []);
    if (writers.length <= 1) return;
    if (this.#mode === "single") this.#wrong(`writers: ${writers.join(" and ")} can write to it`);
    // A node that left while another was at work may go on until that one leaves: the PV's note says so.
    const left = writers.filter((writer) => !this.#rows.has(writer));
    if (this.#mode === "multi" && left.length > 0 && this.#owed === undefined) {
      this.#wrong(`left over: ${left.join(" and ")} can write and nobody knows`);
    }
  }

  /** Where nobody else had it when a node was granted it, whoever had left before was to be cut off. */
  #checkPaid(nodeId: string): void {
    const left = this.#nodes.flatMap(({ session }, i) =>
      session === this.#present && !this.#rows.has(`n${i}`) ? [`n${i}`] : []
    );
    if (left.length > 0) {
      this.#wrong(`unpaid: ${nodeId} has it alone, and ${left.join(" and ")} can write`);
    }
  }

  #create(): void {
    const nodeId = `n${this.#pick(MOST_NODES)}`;
    if (this.#rows.has(nodeId)) return;
    const uid = `${this.#pick(1000)}-${this.#made++}`;
    const created = Math.floor((this.#now + this.#skew) / 1000) * 1000;
    this.#write({ uid, nodeId, attached: false, deleting: false, created, nqn: undefined });
  }

  #write(row: Row): void {
    this.#rows.set(row.nodeId, row);
    this.#log.push({ at: this.#now, uid: row.uid, row });
  }

  /** Kubernetes wants it away: in good order mostly; or the node is in trouble, or has not unmounted for six minutes. */
  #remove(): void {
    const row = [...this.#rows.values()][this.#pick(Math.max(1, this.#rows.size))];
    if (!row || row.deleting) return;
    const node = this.#node(indexOf(row));
    const isWell = node.exists && node.ready && !node.outOfService;
    if (isWell && this.#pick(3)) this.#unmount(node);
    this.#write({ ...row, deleting: true });
  }

  #unmount(node: Node): void {
    node.session = node.told = undefined;
    node.inUse = false;
  }

  /** The kubelet reads the attachment, and later connects; the volume is listed as in use before. */
  #useNode(): void {
    const index = this.#pick(MOST_NODES);
    const row = [...this.#rows.values()].find(({ attached }) => attached && this.#pick(2)) ??
      this.#rows.get(`n${index}`);
    const node = row ? this.#node(indexOf(row)) : this.#node(index);
    if (node.told !== undefined && node.session !== node.told) node.session = node.told;
    else if (!node.exists) return;
    else if (row?.attached && !row.deleting) {
      node.inUse = true;
      node.told = row.nqn;
    } else if (!row && node.ready) this.#unmount(node);
  }

  #changeNode(): void {
    const working = this.#nodes.find(({ session }) => session === this.#present && this.#pick(3));
    const node = working ?? this.#node(this.#pick(MOST_NODES));
    const isWell = node.exists && node.ready;
    const what = this.#pick(isWell ? 8 : 3);
    if (isWell && what < 3) node.ready = false;
    else if (isWell && what < 6) node.exists = node.ready = false;
    else if (what === 7) this.#unmount(node); // It was switched off.
    else if (what === 0) node.outOfService = !node.ready;
    else Object.assign(node, { exists: true, ready: true, outOfService: false });
  }

  /** One of the attachers asks for what its own watch, which is good, shows; for what is attached again only rarely. */
  #ask(index: number): void {
    const row = [...this.#rows.values()][this.#pick(Math.max(1, this.#rows.size))];
    if (!row || (row.attached && !row.deleting && this.#pick(4))) return;
    this.#begin(this.#replicas[index] as Replica, row.deleting ? "unpublish" : "publish", row);
  }

  /** One request at a time; a second one is told to come again. */
  #begin(replica: Replica, kind: Rpc["kind"], { uid, nodeId }: Row): void {
    replica.rpc ??= { kind, uid, nodeId, began: this.#now, phase: kind === "publish" ? "node" : "known", all: [] };
  }

  /** One step of what a replica works at. */
  #advance(replica: Replica): void {
    const { rpc } = replica;
    if (!rpc) return;
    const next = this.#now - rpc.began > REQUEST ? undefined : this.#next(replica, rpc);
    if (next) rpc.phase = next;
    else replica.rpc = undefined;
  }

  /** @returns what comes next; undefined: it is over, for better or worse */
  #next(replica: Replica, rpc: Rpc): Phase | undefined {
    const node = this.#node(indexOf(rpc));
    switch (rpc.phase) {
      case "known":
        if (replica.isBehind(this.#log, this.#now)) return undefined;
        rpc.all = replica.all();
        return "node";
      case "node":
        if (rpc.kind === "publish") return node.exists ? "decide" : undefined;
        rpc.why = this.#whyDangerous(node);
        return rpc.why === undefined ? this.#afterRelease(rpc) : "release";
      case "decide": {
        const kind = this.#decide(replica, rpc);
        if (kind === undefined) return undefined;
        rpc.isAlone = rpc.all.every(({ nodeId }) => nodeId === rpc.nodeId);
        return rpc.isAlone && (kind === "grant" || !this.#rules.cutsAtGrantOnly) ? "owed" : "prepare";
      }
      case "release":
        return this.#release(replica, rpc);
      case "owed":
        if (this.#owed === undefined) return rpc.kind === "publish" ? "prepare" : "answer";
        rpc.held = rpc.paying = this.#owed;
        return "read";
      case "read":
        return this.#readDisk(rpc);
      case "set":
        return this.#fence(rpc);
      case "clear":
        if (!this.#rules.clearsItsOwn || this.#owed === rpc.paying) this.#owed = undefined;
        return rpc.kind === "publish" ? "prepare" : "answer";
      case "prepare":
        rpc.told = this.#present;
        return "answer";
      case "answer":
        return this.#answer(replica, rpc);
    }
  }

  #whyDangerous({ exists, ready, outOfService, inUse }: Node): string | undefined {
    const [driver, handle] = ["d", "h"];
    return whyDangerous(
      exists
        ? {
          metadata: { name: "" },
          spec: { taints: outOfService ? [{ key: "node.kubernetes.io/out-of-service" }] : [] },
          status: {
            conditions: [{ type: "Ready", status: ready ? "True" : "Unknown" }],
            volumesInUse: inUse ? [`kubernetes.io/csi/${driver}^${handle}`] : [],
          },
        }
        : undefined,
      { driver, handle },
    );
  }

  #decide(replica: Replica, rpc: Rpc): "grant" | "already" | undefined {
    if (replica.isBehind(this.#log, this.#now)) return undefined;
    rpc.all = replica.all();
    if (this.#rules.checksUid) {
      const own = this.#rows.get(rpc.nodeId)?.uid;
      if (!rpc.all.some(({ uid, nodeId }) => nodeId === rpc.nodeId && uid === own)) return undefined;
    }
    const { kind } = decide(rpc.all, { nodeId: rpc.nodeId, mode: this.#mode }, this.#now);
    return kind === "grant" || kind === "already" ? kind : undefined;
  }

  #release(replica: Replica, rpc: Rpc): Phase | undefined {
    const all = replica.all();
    let own: Row | undefined = all.find(({ nodeId }) => nodeId === rpc.nodeId);
    if (this.#rules.readsLeaver) {
      own = this.#rows.get(rpc.nodeId);
      if (!own?.deleting) return undefined; // It has left already, and may be back: nothing to do for the old one.
    }
    if (this.#rules.claimsLeaveFreely && !own?.attached) return this.#afterRelease(rpc);
    rpc.held = own?.nqn;
    const others = atWork(all, [rpc.nodeId], this.#mode);
    if (others.length === 0) {
      if (this.#rules.owesFirst) this.#owed = rpc.paying = rpc.held ?? "unknown";
      return "read";
    }
    this.#owed = rpc.held ?? "unknown";
    return this.#afterRelease(rpc);
  }

  #afterRelease(rpc: Rpc): Phase {
    return atWork(rpc.all, [rpc.nodeId], this.#mode).length === 0 ? "owed" : "answer";
  }

  #readDisk(rpc: Rpc): Phase {
    const held = rpc.held === "unknown" ? undefined : rpc.held;
    rpc.from = this.#present;
    if (held !== undefined && held < this.#present) return this.#afterFence(rpc);
    rpc.to = Math.max(this.#present, held ?? 0) + 1;
    return "set";
  }

  /** RouterOS does it; or refuses; or says nothing, and does it later or never. */
  #fence(rpc: Rpc): Phase | undefined {
    const { from, to } = rpc as Required<Rpc>;
    const happens = this.#calm ? 3 : this.#pick(8);
    if (happens === 0) return undefined;
    if (happens === 1) {
      const at = this.#now + this.#pick(LATE);
      this.#later.push({ at, work: () => void (this.#present === from && (this.#present = to)) });
      return undefined;
    }
    if (this.#present === from) this.#present = to;
    return this.#present === to ? this.#afterFence(rpc) : undefined;
  }

  #afterFence(rpc: Rpc): Phase {
    if (rpc.paying !== undefined) return "clear";
    return this.#afterRelease(rpc);
  }

  #answer(replica: Replica, rpc: Rpc): undefined {
    const { uid, nodeId, told } = rpc;
    if (rpc.kind === "publish" && this.#decide(replica, rpc) === undefined) return;
    if (!this.#calm && this.#pick(8) === 0) return; // Nobody gets the answer.
    const isAlone = rpc.isAlone === true;
    const at = this.#now + (this.#calm ? 0 : this.#pick(this.#pick(2) ? 1000 : PATCH));
    const mine = (row: Row | undefined) => row && (this.#rules.patchesByName || row.uid === uid) ? row : undefined;
    this.#later.push({
      at,
      work: () => {
        const row = mine(this.#rows.get(nodeId));
        if (!row) return;
        if (rpc.kind === "publish") {
          this.#write({ ...row, attached: true, nqn: told });
          if (isAlone) this.#checkPaid(nodeId);
        } else if (row.deleting && row.uid === uid) {
          this.#rows.delete(nodeId);
          this.#log.push({ at: this.#now, uid: row.uid, row: undefined });
        }
      },
    });
  }

  #catchUp(): void {
    for (const replica of this.#replicas) replica.follow(this.#log, this.#log.length, this.#now);
  }

  /** Time goes on: what is on its way arrives in order, watches catch up with some of what happened. */
  #pass(milliseconds: number): void {
    const until = this.#now + milliseconds;
    const due = this.#later.filter(({ at }) => at <= until).sort((a, b) => a.at - b.at);
    this.#later = this.#later.filter(({ at }) => at > until);
    for (const { at, work } of due) {
      this.#now = Math.max(this.#now, at);
      work();
      this.#check();
    }
    this.#now = until;
    for (const replica of this.#replicas) {
      if (replica.isSilent) continue;
      const unseen = this.#log.length - replica.position;
      replica.follow(this.#log, replica.position + (this.#pick(4) ? unseen : this.#pick(unseen + 1)), this.#now);
    }
  }
}
