/**
 * One volume with everything of the attachments real: view, watches, decisions, annotations, fence. The API server, RouterOS,
 * nodes, attachers and time are not, and do what chance wants.
 * @module
 */
import type { VolumeAttachmentObject } from "../kube/objects.ts";
import type { Disk } from "../rds/decode.ts";
import { Unreachable } from "../runtime/errors.ts";
import { FakeApi } from "./fake_api.ts";
import type { FakeClock } from "./fake_clock.ts";
import {
  annotationsOf,
  attachment,
  ATTACHMENTS,
  FakeController,
  ID,
  node,
  NODES,
  NQN,
  PV,
  pv,
  PVS,
} from "./fake_controller.ts";
import type { Fence } from "./release.ts";

const NAMES = ["a", "b", "c"];

/** Where RouterOS has the volume's file. */
export const BASE = "pool/volumes";

/** RouterOS, as a fence uses it. */
export interface LiveDisk {
  get(): Promise<Disk>;
  fence(nqns: { from: string; to: string }): Promise<{ disks: Disk[]; files: number }>;
}

/** Settings of {@linkcode LiveWorld}. */
export interface LiveWorldOptions {
  clock: FakeClock;
  pick: (below: number) => number;
  fenceOf: (disk: LiveDisk) => Fence;
}

/** The machine: what its kubelet was told, and what it is connected to. */
interface Machine {
  told: string | undefined;
  session: string | undefined;
}

/** What an attacher makes of an answer. */
interface Answer {
  alone: boolean;
  nqn: string;
  /** The nodes that had left and could write when it was given. */
  left: string[];
}

/** Give it steps; what it finds wrong it notes. */
export class LiveWorld {
  readonly api = new FakeApi();
  readonly wrong: string[] = [];
  readonly #clock: FakeClock;
  readonly #pick: (below: number) => number;
  readonly #cut: Fence;
  readonly #mode: "single" | "multi";
  readonly #machines = new Map<string, Machine>(NAMES.map((name) => [name, { told: undefined, session: undefined }]));
  readonly #controllers: FakeController[] = [];
  readonly #busy = new Set<FakeController>();
  /** Requests and patches under way by attachment, and the attachments that had more than one at once. */
  readonly #open = new Map<string, number>();
  readonly #crossed = new Set<string>();
  #nqn = NQN;
  #made = 0;
  #calm = false;

  constructor({ clock, pick, fenceOf }: LiveWorldOptions) {
    this.#clock = clock;
    this.#pick = pick;
    this.#cut = fenceOf({ get: () => this.#disk(), fence: (nqns) => this.#fence(nqns) });
    this.#mode = pick(2) ? "single" : "multi";
    this.api.put(PVS, pv(PV, { modes: [this.#mode === "multi" ? "ReadWriteMany" : "ReadWriteOnce"] }));
    for (const name of NAMES) this.api.put(NODES, node(name));
  }

  async start(): Promise<void> {
    for (const index of [0, 1]) this.#controllers[index] = await this.#controller();
  }

  async stop(): Promise<void> {
    for (const controller of this.#controllers) await controller.stop();
  }

  async step(): Promise<void> {
    const what = this.#pick(32);
    const controller = this.#controllers[this.#pick(2)] as FakeController;
    if (what < 3) this.#create();
    else if (what < 11) this.#ask(controller);
    else if (what < 13) this.#remove();
    else if (what < 16) this.#use();
    else if (what === 16) this.#change();
    else if (what === 17) controller.kube.shown === Infinity ? controller.kube.hold() : controller.kube.resume();
    else if (what === 18) controller.kube.resume(this.#pick(3));
    else if (what === 19) controller.kube.cut();
    else if (what === 20) this.api.compact();
    else if (what === 21) await this.#restart(this.#pick(2));
    else if (what === 22) controller.kube.before = this.#pick(2) ? () => {} : () => this.#trouble();
    else await this.#pass([0, 10, 300, 2000, 10_000, 45_000, 150_000][this.#pick(7)] ?? 0);
    await this.#clock.idle();
    this.#check();
  }

  /** All is well again, and everybody goes on for long enough. */
  async settle(): Promise<void> {
    this.#calm = true;
    for (const name of NAMES) {
      const row = this.#row(name);
      this.api.put(NODES, node(name, { inUse: this.#machines.get(name)?.told ? [ID] : [] }));
      if (!row || row.metadata.deletionTimestamp) this.#unmount(name);
    }
    for (const { kube } of this.#controllers) {
      kube.before = () => {};
      kube.resume();
    }
    for (let round = 0; round < 10; round++) {
      await this.#pass(160_000);
      for (const row of this.#rows()) {
        if (row.status?.attached && !row.metadata.deletionTimestamp) continue;
        this.#begin(this.#controllers[0] as FakeController, row);
        await this.#pass(200);
        this.#check();
      }
    }
    const attached = this.#rows().filter(({ status }) => status?.attached);
    const due = Math.min(this.#rows().length, this.#mode === "single" ? 1 : 2);
    if (attached.length !== due) this.wrong.push(`stuck: ${attached.length} of ${due} have it in the end`);
    for (const { metadata: { uid = "" }, spec, status } of attached) {
      const what = this.#crossed.has(uid) ? "crossed" : "cut off";
      if (status?.attachmentMetadata?.["nvme_nqn"] !== this.#nqn) this.wrong.push(`${what}: ${spec?.nodeName}`);
    }
  }

  async #controller(): Promise<FakeController> {
    return await new FakeController(this.api, this.#clock, { fence: this.#cut }).start();
  }

  async #restart(index: number): Promise<void> {
    await this.#controllers[index]?.stop();
    this.#controllers[index] = await this.#controller();
  }

  async #trouble(): Promise<void> {
    const what = this.#pick(4);
    if (what === 0) throw new Unreachable("500");
    if (what === 1) await new Promise((resolve) => setTimeout(resolve, this.#pick(3000)));
  }

  async #disk(): Promise<Disk> {
    await new Promise((resolve) => setTimeout(resolve, this.#pick(50)));
    const [slot, nqn] = [ID, this.#nqn];
    const file = `${BASE}/${ID}.img`;
    return { slot, type: "file", file, size: 1n, nqn, port: 4420, exported: true, mountFilesystem: false, comment: "" };
  }

  async #fence({ from, to }: { from: string; to: string }) {
    await new Promise((resolve) => setTimeout(resolve, this.#pick(1000)));
    if (!this.#calm && this.#pick(6) === 0) throw new Unreachable("RouterOS refuses");
    if (this.#nqn === from) this.#nqn = to;
    return { disks: [await this.#disk()], files: 1 };
  }

  #rows(): VolumeAttachmentObject[] {
    return this.api.all(ATTACHMENTS) as VolumeAttachmentObject[];
  }

  #row(name: string): VolumeAttachmentObject | undefined {
    return this.api.find(ATTACHMENTS, `csi-${PV}-${name}`);
  }

  #any<T>(all: readonly T[]): T | undefined {
    return all[this.#pick(Math.max(1, all.length))];
  }

  #create(): void {
    const name = this.#any(NAMES) as string;
    const created = Math.floor(this.#clock.now / 1000) * 1000;
    if (!this.#row(name)) {
      this.api.put(ATTACHMENTS, attachment(name, { uid: `${this.#pick(1000)}-${this.#made++}`, created }));
    }
  }

  #ask(controller: FakeController): void {
    const row = this.#any(this.#rows());
    if (row && !(row.status?.attached && !row.metadata.deletionTimestamp && this.#pick(4))) {
      this.#begin(controller, row);
    }
  }

  /** An attacher's request: it gives up after 15 s, and what it makes of the answer arrives later, or never. */
  #begin(controller: FakeController, { metadata, spec }: VolumeAttachmentObject): void {
    if (this.#busy.has(controller)) return;
    this.#busy.add(controller);
    const { name, uid = "" } = metadata;
    const close = this.#opened(uid);
    const stop = new AbortController();
    const timer = setTimeout(() => stop.abort(), 15_000);
    controller.signal.addEventListener("abort", () => stop.abort(), { once: true });
    const work = this.#request(
      controller,
      { nodeId: spec?.nodeName ?? "", leaves: !!metadata.deletionTimestamp },
      stop,
    );
    work.then((answer) => {
      if (stop.signal.aborted || (!this.#calm && this.#pick(8) === 0)) return close();
      setTimeout(() => {
        close();
        this.#patch({ name, uid }, answer);
      }, this.#pick(this.#pick(3) ? 100 : 30_000));
    }, close).finally(() => {
      clearTimeout(timer);
      this.#busy.delete(controller);
    });
  }

  async #request(
    { attachments }: FakeController,
    { nodeId, leaves }: { nodeId: string; leaves: boolean },
    { signal }: AbortController,
  ): Promise<Answer | undefined> {
    if (leaves) return await attachments.detach(ID, nodeId, signal) as undefined;
    const prepare = async (alone: boolean) => ({ alone, nqn: (await this.#disk()).nqn });
    const answer = await attachments.attach(ID, { nodeId, mode: this.#mode }, prepare, signal);
    return { ...answer, left: this.#left };
  }

  /** @returns what ends it */
  #opened(uid: string): () => void {
    const count = (change: number) => this.#open.set(uid, (this.#open.get(uid) ?? 0) + change).get(uid) ?? 0;
    if (count(1) > 1) this.#crossed.add(uid);
    return () => void count(-1);
  }

  #patch({ name, uid }: { name: string; uid: string }, answer: Answer | undefined): void {
    const row = this.api.find<VolumeAttachmentObject>(ATTACHMENTS, name);
    if (row?.metadata.uid !== uid) return;
    if (answer) {
      const { nqn, alone, left } = answer;
      this.api.put(ATTACHMENTS, { ...row, status: { attached: true, attachmentMetadata: { nvme_nqn: nqn } } });
      // Nobody else had it when it was first granted: whoever had left before was to be cut off.
      const still = left.filter((each) => this.#left.includes(each));
      if (alone && !row.status?.attached && still.length > 0) {
        this.wrong.push(`unpaid: ${still.join(" and ")} can write too`);
      }
    } else if (row.metadata.deletionTimestamp) this.api.remove(ATTACHMENTS, name);
    this.#check();
  }

  #remove(): void {
    const row = this.#any(this.#rows());
    if (!row || row.metadata.deletionTimestamp) return;
    const name = row.spec?.nodeName as string;
    if (this.#isWell(name) && this.#pick(3)) this.#unmount(name);
    this.api.put(ATTACHMENTS, { ...row, metadata: { ...row.metadata, deletionTimestamp: "now" } });
  }

  #isWell(name: string): boolean {
    const found = this.api.find(NODES, name) as ReturnType<typeof node> | undefined;
    return found?.status?.conditions?.some(({ type, status }) => type === "Ready" && status === "True") ?? false;
  }

  #unmount(name: string): void {
    Object.assign(this.#machines.get(name) as Machine, { told: undefined, session: undefined });
    if (this.api.find(NODES, name)) this.api.put(NODES, node(name));
  }

  /** The kubelet says that the volume is in use, reads the NQN, and connects later. */
  #use(): void {
    const name = this.#any(NAMES) as string;
    const machine = this.#machines.get(name) as Machine;
    const row = this.#row(name);
    if (machine.told !== machine.session) machine.session = machine.told;
    else if (row?.status?.attached && !row.metadata.deletionTimestamp && this.#isWell(name)) {
      this.api.put(NODES, node(name, { inUse: [ID] }));
      machine.told = row.status.attachmentMetadata?.["nvme_nqn"];
    } else if (!row && this.#isWell(name)) this.#unmount(name);
  }

  #change(): void {
    const name = this.#any(NAMES) as string;
    const inUse = this.#machines.get(name)?.told ? [ID] : [];
    const what = this.#pick(this.#isWell(name) ? 3 : 8);
    if (what === 0) this.api.remove(NODES, name);
    else if (what === 1) this.api.put(NODES, node(name, { ready: "Unknown", inUse }));
    else if (what === 2) this.api.put(NODES, node(name, { inUse, ready: "False", outOfService: true }));
    else this.api.put(NODES, node(name, { inUse }));
  }

  async #pass(milliseconds: number): Promise<void> {
    for (let left = milliseconds; left >= 0; left -= 30_000) {
      for (const { kube } of this.#controllers) if (kube.shown === Infinity) kube.bookmark();
      await this.#clock.advance(Math.min(30_000, Math.max(0, left)));
    }
  }

  get #writers(): string[] {
    return NAMES.filter((name) => this.#machines.get(name)?.session === this.#nqn);
  }

  /** Those of them whose attachment is gone. */
  get #left(): string[] {
    return this.#writers.filter((name) => !this.#row(name));
  }

  #check(): void {
    const attached = this.#rows().filter(({ status }) => status?.attached).length;
    if (attached > (this.#mode === "single" ? 1 : 2)) this.wrong.push(`holders: ${attached} nodes have it`);
    const [writers, left] = [this.#writers, this.#left];
    if (writers.length > 1 && this.#mode === "single") this.wrong.push(`writers: ${writers.join(" and ")}`);
    const isOwed = annotationsOf(this.api)["fence-owed"] !== undefined;
    if (writers.length > 1 && left.length > 0 && !isOwed) this.wrong.push(`left over: ${left.join(" and ")}`);
  }
}
