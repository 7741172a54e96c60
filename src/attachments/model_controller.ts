/**
 * A controller of the model: it works through its requests step by step as `kubernetes.ts` and `release.ts` do, in the same
 * order, with `decide`, `atWork` and `whyDangerous` themselves. Between any two steps anything may happen.
 * @module
 */
import { atWork, whyDangerous, whyLost } from "./danger.ts";
import { type Attachment, byAge, decide } from "./decide.ts";
import { type Cluster, type Note, type Row, VOLUME } from "./model_cluster.ts";
import { LONGEST_BEHIND } from "./view.ts";

/** Longest way of an attacher's patch, and longest life of a request: milliseconds. */
const PATCH = 30_000;
const REQUEST = 60_000;

/** Rules of the attachments that a test can take away, to show that the model misses them. */
export const rules = [
  "a request is granted for the very attachment that there is",
  "what is owed is paid at a first grant only",
  "a grant that has become the only one begins anew",
  "a note is written before a fence begins",
  "while a note is there nobody is granted what a fence may take",
] as const;
export type Rule = typeof rules[number];

type Seen = Row & Attachment;
type Step =
  | "known"
  | "node"
  | "decide"
  | "confirm"
  | "others"
  | "note"
  | "list"
  | "owe"
  | "pay"
  | "read"
  | "set"
  | "clear"
  | "prepare"
  | "answer";

interface Request {
  kind: "publish" | "unpublish";
  uid: string;
  nodeId: string;
  began: number;
  step: Step;
  isDangerous: boolean;
  isFirst: boolean;
  isAlone: boolean;
  beganAlone: boolean;
  isPrepared: boolean;
  isNoted: boolean;
  others: readonly Seen[];
  held: Note;
  from: number;
  to: number;
  told: number;
}

/** What its watch has shown so far, and the one request for the volume that it works at. */
export class Controller {
  /** Its watch shows nothing new for a while. */
  isSilent = false;
  readonly #cluster: Cluster;
  readonly #without: Rule | undefined;
  readonly #granted: (nodeId: string, left: readonly string[]) => void;
  readonly #view = new Map<string, Seen>();
  #position = 0;
  #request: Request | undefined;

  /** @param granted told when a node that was alone has got the volume, and who had left it and could write then */
  constructor(cluster: Cluster, without: Rule | undefined, granted: (nodeId: string, left: readonly string[]) => void) {
    this.#cluster = cluster;
    this.#without = without;
    this.#granted = granted;
  }

  get isBusy(): boolean {
    return this.#request !== undefined;
  }

  get unseen(): number {
    return this.#cluster.log.length - this.#position;
  }

  /** Its watch shows so many things more. */
  follow(count: number): void {
    const { log, now } = this.#cluster;
    for (const { uid, row } of log.slice(this.#position, this.#position + count)) {
      if (row) this.#view.set(uid, { ...row, seen: this.#view.get(uid)?.seen ?? now });
      else this.#view.delete(uid);
    }
    this.#position += count;
  }

  /** After 410 it replaces all it knows, and keeps since when it has known it. */
  relist(): void {
    const all = this.#current();
    this.#view.clear();
    for (const row of all) this.#view.set(row.uid, row);
    this.#position = this.#cluster.log.length;
    this.isSilent = false;
  }

  restart(): void {
    this.#view.clear();
    if (this.#request) this.#cluster.end(this.#request.uid);
    this.#request = undefined;
    this.relist();
  }

  /** One request at a time; a second one is told to come again. */
  begin({ uid, nodeId, deleting }: Row): void {
    if (this.#request) return;
    this.#cluster.begin(uid);
    this.#request = {
      kind: deleting ? "unpublish" : "publish",
      uid,
      nodeId,
      began: this.#cluster.now,
      step: deleting ? "known" : "node",
      isDangerous: false,
      isFirst: false,
      isAlone: false,
      beganAlone: false,
      isPrepared: false,
      isNoted: false,
      others: [],
      held: undefined,
      from: 0,
      to: 0,
      told: 0,
    };
  }

  /** One step of what it works at. */
  advance(): void {
    const request = this.#request;
    if (!request) return;
    const isLate = this.#cluster.now - request.began > REQUEST;
    const next = isLate ? undefined : this.#next(request);
    if (next === "sent") this.#request = undefined;
    else if (next) request.step = next;
    else {
      this.#request = undefined;
      this.#cluster.end(request.uid);
    }
  }

  /** @returns what comes next; undefined: it is over, for better or worse */
  #next(request: Request): Step | "sent" | undefined {
    const { kind, nodeId } = request;
    const cluster = this.#cluster;
    switch (request.step) {
      case "known":
        return this.#isBehind ? undefined : "node";
      case "node":
        if (kind === "publish") return cluster.node(nodeId) && "decide";
        request.isDangerous = whyDangerous(cluster.node(nodeId), VOLUME) !== undefined;
        return "note";
      case "decide":
        return this.#decide(request) ? this.#afterWatch(request) : undefined;
      case "confirm":
        return this.#decideOn(this.#current(), request) ? this.#afterDecision(request) : undefined;
      case "others":
        return this.#isAnyLost(request) ? undefined : this.#decided(request);
      case "note":
        if (cluster.note === undefined && !request.isDangerous) return afterPaid(request);
        return "list";
      case "list":
        return kind === "publish" ? this.#beforeGrant(request) : this.#letGo(request);
      case "owe":
        this.#owe(request.held);
        request.isNoted = true;
        return "list";
      case "pay":
        request.held = cluster.note;
        return request.held === undefined ? afterPaid(request) : "read";
      case "read":
        return this.#readDisk(request);
      case "set":
        return cluster.fence(request.from, request.to) ? "clear" : undefined;
      case "clear":
        this.#clear(request);
        return afterPaid(request);
      case "prepare":
        request.told = cluster.present;
        request.isPrepared = true;
        return "decide";
      case "answer":
        return this.#answer(request);
    }
  }

  #keeps(rule: Rule): boolean {
    return this.#without !== rule;
  }

  get #isBehind(): boolean {
    const next = this.#cluster.log[this.#position];
    return next !== undefined && this.#cluster.now - next.at > LONGEST_BEHIND;
  }

  /** A list from a quorum. */
  #current(): Seen[] {
    const { rows, now } = this.#cluster;
    return [...rows.values()].map((row) => ({ ...row, seen: this.#view.get(row.uid)?.seen ?? now }));
  }

  /** @returns whether it may have the volume, as far as its watch shows */
  #decide(request: Request): boolean {
    if (this.#isBehind) return false;
    const own = this.#cluster.rows.get(request.nodeId);
    const isSeen = own !== undefined && this.#view.has(own.uid) && !own.deleting;
    if (!isSeen && this.#keeps("a request is granted for the very attachment that there is")) return false;
    return this.#decideOn([...this.#view.values()], request);
  }

  #decideOn(all: readonly Seen[], request: Request): boolean {
    const { mode, now } = this.#cluster;
    const { nodeId } = request;
    const { kind } = decide(all, { nodeId, mode }, now);
    request.isFirst = kind === "grant";
    request.others = all.filter((each) => each.nodeId !== nodeId);
    const others = mode === "single" ? request.others.filter(({ attached }) => attached) : request.others;
    request.isAlone = request.isFirst && others.length === 0;
    return kind === "grant" || kind === "already";
  }

  #afterWatch(request: Request): Step | undefined {
    const isBeside = request.isFirst && request.others.length > 0;
    return isBeside ? "confirm" : this.#afterDecision(request);
  }

  #afterDecision(request: Request): Step | undefined {
    return request.isFirst ? "others" : this.#decided(request);
  }

  #isAnyLost({ others }: Request): boolean {
    return others.some(({ nodeId, attached }) => attached && whyLost(this.#cluster.node(nodeId)) !== undefined);
  }

  /** It may have the volume: once before anything is done for it, and once after. */
  #decided(request: Request): Step | undefined {
    const { isFirst, isAlone, isPrepared } = request;
    if (isPrepared) {
      const isNews = isAlone && !request.beganAlone && this.#keeps("a grant that has become the only one begins anew");
      return isNews ? undefined : "answer";
    }
    request.beganAlone = isAlone || !isFirst;
    return isFirst || !this.#keeps("what is owed is paid at a first grant only") ? "note" : "prepare";
  }

  #beforeGrant({ nodeId }: Request): Step | undefined {
    const all = this.#current();
    if (!this.#keeps("what is owed is paid at a first grant only")) return all.length === 1 ? "pay" : "prepare";
    if (!this.#keeps("while a note is there nobody is granted what a fence may take")) {
      return all.length === 1 && all[0]?.attached === false ? "pay" : "prepare";
    }
    if (all.some(({ deleting }) => deleting)) return undefined;
    if (all.some(({ attached }) => attached)) return "prepare";
    return all.sort(byAge)[0]?.nodeId === nodeId ? "pay" : undefined;
  }

  #letGo(request: Request): Step | undefined {
    const { nodeId } = request;
    const all = this.#current();
    const own = all.find((each) => each.nodeId === nodeId);
    request.others = atWork(all, [nodeId], this.#cluster.mode);
    if (!request.isDangerous || !own?.attached || request.isNoted) return this.#payOrLater(request);
    if (!own.deleting) return undefined;
    request.held = own.nqn;
    return this.#keeps("a note is written before a fence begins") || request.others.length > 0 ? "owe" : "read";
  }

  #payOrLater({ others }: Request): Step {
    return others.length > 0 ? "answer" : "pay";
  }

  #owe(held: Note): void {
    const { note } = this.#cluster;
    const isOther = note !== undefined && note !== held;
    this.#cluster.note = isOther ? "any" : held ?? "any";
  }

  #readDisk(request: Request): Step {
    const { present } = this.#cluster;
    const held = request.held === "any" ? undefined : request.held;
    if (held !== undefined && held < present) return "clear";
    request.from = present;
    request.to = Math.max(present, held ?? 0) + 1;
    return "set";
  }

  #clear({ held }: Request): void {
    if (this.#cluster.note === held) this.#cluster.note = undefined;
  }

  /** Its attacher gets the answer, or nobody; what it makes of it arrives late, if its attachment is still there. */
  #answer(request: Request): "sent" | undefined {
    const { calm, pick, left } = this.#cluster;
    if (!calm && pick(8) === 0) return undefined;
    this.#cluster.after(calm ? 0 : pick(pick(2) ? 1000 : PATCH), () => {
      this.#cluster.end(request.uid);
      this.#patch(request, left);
    });
    return "sent";
  }

  #patch({ kind, uid, nodeId, told, isAlone }: Request, left: readonly string[]): void {
    const row = this.#cluster.rows.get(nodeId);
    if (row?.uid !== uid) return;
    if (kind === "unpublish") return this.#cluster.drop(row);
    this.#cluster.write({ ...row, attached: true, nqn: told });
    if (isAlone && !row.attached) this.#granted(nodeId, left);
  }
}

function afterPaid({ kind }: Request): Step {
  return kind === "publish" ? "prepare" : "answer";
}
