/**
 * Random histories of one volume with everything of the attachments real: view, watches, decisions, annotations, fence.
 * The API server, RouterOS, nodes, attachers and time are not. `RDS_CSI_HISTORIES` makes it longer.
 * @module
 */
import { assert } from "@std/assert";
import fc from "fast-check";
import { Unreachable } from "../runtime/errors.ts";
import { fence } from "../volumes/fence.ts";
import { FakeApi } from "./fake_api.ts";
import { FakeClock } from "./fake_clock.ts";
import {
  attachment,
  ATTACHMENTS,
  FakeController,
  ID,
  node,
  NODES,
  NQN,
  PREFIX,
  PV,
  pv,
  PVS,
} from "./fake_controller.ts";
import { random } from "./model_world.ts";
import type { VolumeAttachmentObject } from "./objects.ts";

const NAMES = ["a", "b", "c"];
const HISTORY = 120;
const HISTORIES = Number(Deno.env.get("RDS_CSI_HISTORIES") ?? 600);
const base = "pool/volumes";

/** The machine: what its kubelet was told, and what it is connected to. */
interface Machine {
  told: string | undefined;
  session: string | undefined;
}

class World {
  readonly api = new FakeApi();
  readonly wrong: string[] = [];
  readonly #clock: FakeClock;
  readonly #pick: (below: number) => number;
  readonly #mode: "single" | "multi";
  readonly #machines = new Map<string, Machine>(NAMES.map((name) => [name, { told: undefined, session: undefined }]));
  readonly #controllers: FakeController[] = [];
  readonly #busy = new Set<FakeController>();
  #nqn = NQN;
  #made = 0;
  #calm = false;

  constructor(clock: FakeClock, pick: (below: number) => number) {
    this.#clock = clock;
    this.#pick = pick;
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
    for (const { spec, status } of attached) {
      if (status?.attachmentMetadata?.["nvme_nqn"] !== this.#nqn) this.wrong.push(`cut off: ${spec?.nodeName}`);
    }
  }

  async #controller(): Promise<FakeController> {
    return await new FakeController(this.api, this.#clock, {
      fence: (id, heldNqn, signal) =>
        fence({ id, heldNqn }, {
          disks: { get: () => this.#disk(), fence: (_target, nqns) => this.#fence(nqns) },
          prefix: PREFIX,
          bases: [base],
          signal,
        }),
    }).start();
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

  async #disk() {
    await new Promise((resolve) => setTimeout(resolve, this.#pick(50)));
    const [slot, nqn] = [ID, this.#nqn];
    const file = `${base}/${ID}.img`;
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
    const nodeId = spec?.nodeName as string;
    const stop = new AbortController();
    const timer = setTimeout(() => stop.abort(), 15_000);
    controller.signal.addEventListener("abort", () => stop.abort(), { once: true });
    const prepare = async (alone: boolean) => ({ alone, nqn: (await this.#disk()).nqn });
    const { signal } = stop;
    const work = metadata.deletionTimestamp
      ? controller.attachments.detach(ID, nodeId, signal)
      : controller.attachments.attach(ID, { nodeId, mode: this.#mode }, prepare, signal);
    work.then((answer) => {
      if (signal.aborted || (!this.#calm && this.#pick(8) === 0)) return;
      setTimeout(() => this.#patch(metadata, answer || undefined), this.#pick(this.#pick(3) ? 100 : 30_000));
    }).catch(() => {}).finally(() => {
      clearTimeout(timer);
      this.#busy.delete(controller);
    });
  }

  #patch({ name, uid }: VolumeAttachmentObject["metadata"], answer: { alone: boolean; nqn: string } | undefined): void {
    const row = this.api.find<VolumeAttachmentObject>(ATTACHMENTS, name);
    if (!row || row.metadata.uid !== uid) return;
    if (answer) {
      const { nqn, alone } = answer;
      this.api.put(ATTACHMENTS, { ...row, status: { attached: true, attachmentMetadata: { nvme_nqn: nqn } } });
      // Nobody else had it when it was granted: whoever had left before was to be cut off.
      const left = NAMES.filter((each) => this.#machines.get(each)?.session === this.#nqn && !this.#row(each));
      if (alone && left.length > 0) this.wrong.push(`unpaid: ${left.join(" and ")} can write too`);
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

  #check(): void {
    const attached = this.#rows().filter(({ status }) => status?.attached).length;
    if (attached > (this.#mode === "single" ? 1 : 2)) this.wrong.push(`holders: ${attached} nodes have it`);
    const writers = NAMES.filter((name) => this.#machines.get(name)?.session === this.#nqn);
    if (writers.length > 1 && this.#mode === "single") this.wrong.push(`writers: ${writers.join(" and ")}`);
    const owed = this.api.find(PVS, PV)?.metadata.annotations?.["rds.csi.srvlab.io/fence-owed"];
    const left = writers.filter((name) => !this.#row(name));
    if (writers.length > 1 && left.length > 0 && owed === undefined) {
      this.wrong.push(`left over: ${left.join(" and ")}`);
    }
  }
}

Deno.test("KubernetesAttachments, two of them, let no history have two nodes write to a ReadWriteOnce volume, nor a volume stuck", async () => {
  let cuts = 0;
  await fc.assert(
    fc.asyncProperty(fc.integer({ min: 0, max: 2 ** 31 }), async (seed) => {
      const pick = random(seed);
      using clock = new FakeClock(() => pick(1000) / 1000);
      const world = new World(clock, pick);
      await world.start();
      for (let step = 0; step < HISTORY && world.wrong.length === 0; step++) await world.step();
      if (world.wrong.length === 0) await world.settle();
      await world.stop();
      // Known, see defects_test.ts: counted, and not hidden.
      const wrong = world.wrong.filter((what) => !what.startsWith("cut off") || (cuts++, false));
      assert(wrong.length === 0, wrong.join("\n"));
    }),
    { numRuns: HISTORIES, endOnFailure: true },
  );
  assert(cuts <= 2 + HISTORIES / 20, `${cuts} of ${HISTORIES} histories end with a node that was wrongly cut off`);
});
