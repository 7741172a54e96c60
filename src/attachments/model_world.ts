/**
 * Random histories of one volume: two controllers whose watches are behind differently, each with an attacher that believes
 * it leads; nodes that are lost and come back; RouterOS that refuses or is late; clocks that jump.
 * @module
 */
import { SETTLED } from "./decide.ts";
import { Cluster, type Machine } from "./model_cluster.ts";
import { Controller, type Rule } from "./model_controller.ts";

/** Settings of {@linkcode World}. */
export interface WorldOptions {
  /** Told of what is wrong. */
  wrong: (what: string) => void;
  /** The rule that is left out. */
  without?: Rule | undefined;
}

/** Everything that has to do with one volume. Give it steps; what it finds wrong it tells. */
export class World {
  readonly #cluster: Cluster;
  readonly #wrong: (what: string) => void;
  readonly #controllers: readonly [Controller, Controller];
  #skew = 0;
  #made = 0;

  constructor(seed: number, { wrong, without }: WorldOptions) {
    this.#cluster = new Cluster(seed);
    this.#wrong = wrong;
    const controller = () => new Controller(this.#cluster, without, (nodeId, left) => this.#checkPaid(nodeId, left));
    this.#controllers = [controller(), controller()];
  }

  step(): void {
    const { pick } = this.#cluster;
    const controller = this.#controllers[pick(2)] as Controller;
    const what = pick(64);
    if (what < 3) this.#create();
    else if (what < 16) this.#ask(controller);
    else if (what < 38) { for (let steps = pick(8); steps >= 0; steps--) controller.advance(); }
    else if (what < 40) this.#remove();
    else if (what < 49) this.#use();
    else if (what < 52) this.#change();
    else if (what < 59) this.#pass([1, 10, 100, 1000, 5000, 20_000][pick(6)] ?? 1);
    else if (what === 59) this.#pass(pick(3) ? 40_000 : SETTLED);
    else if (what === 60) this.#skew = (pick(41) - 20) * (pick(2) ? 1000 : 30_000);
    else if (what === 61) pick(2) ? controller.relist() : controller.restart();
    else controller.isSilent = !controller.isSilent;
    this.#check();
  }

  /** Everybody goes on for long enough, nodes recover, and nobody makes anything new: then nobody may be stuck. */
  settle(): void {
    const { machines, rows } = this.#cluster;
    this.#cluster.calm = true;
    for (const [nodeId, machine] of machines) {
      Object.assign(machine, { exists: true, ready: true, outOfService: false });
      if (!rows.has(nodeId)) unmount(machine);
    }
    const [controller] = this.#controllers;
    for (const each of this.#controllers) while (each.isBusy) each.advance();
    for (let round = 0; round < 4 * machines.size; round++) {
      this.#pass(SETTLED);
      for (const row of [...rows.values()]) {
        if (row.deleting) unmount(this.#cluster.machine(row.nodeId));
        if (row.attached && !row.deleting) continue;
        this.#catchUp();
        controller.begin(row);
        while (controller.isBusy) controller.advance();
        this.#pass(1);
        this.#check();
      }
    }
    this.#checkEnd();
  }

  #checkEnd(): void {
    const { attached, most, rows, present, crossed } = this.#cluster;
    const due = Math.min(rows.size, most);
    if (attached.length !== due) this.#wrong(`stuck: ${attached.length} of ${due} have it in the end`);
    for (const { nodeId, nqn, uid } of attached) {
      const what = crossed.has(uid) ? "crossed" : "cut off";
      if (nqn !== present) this.#wrong(`${what}: in the end ${nodeId} has .g${nqn}, and .g${present} is`);
    }
  }

  #check(): void {
    const { attached, most, mode, writers, left, note } = this.#cluster;
    if (attached.length > most) this.#wrong(`holders: ${attached.length} nodes have a volume that ${most} may`);
    if (writers.length <= 1) return;
    if (mode === "single") this.#wrong(`writers: ${writers.join(" and ")} can write to it`);
    // A node that left while another was at work may go on until that one leaves: the PV's note says so.
    if (left.length > 0 && note === undefined) {
      this.#wrong(`left over: ${left.join(" and ")} can write and nobody knows`);
    }
  }

  /** Where nobody else had it when a node was granted it, whoever had left before was to be cut off. */
  #checkPaid(nodeId: string, left: readonly string[]): void {
    const still = left.filter((each) => this.#cluster.left.includes(each));
    if (still.length > 0) this.#wrong(`unpaid: ${nodeId} has it alone, and ${still.join(" and ")} can write`);
  }

  #create(): void {
    const cluster = this.#cluster;
    const nodeId = cluster.any(cluster.machines.keys()) as string;
    if (cluster.rows.has(nodeId)) return;
    const uid = `${cluster.pick(1000)}-${this.#made++}`;
    const created = Math.floor((cluster.now + this.#skew) / 1000) * 1000;
    cluster.write({ uid, nodeId, attached: false, deleting: false, created, nqn: undefined });
  }

  /** Kubernetes wants it away: in good order mostly; or the node is in trouble, or has not unmounted for six minutes. */
  #remove(): void {
    const cluster = this.#cluster;
    const row = cluster.any(cluster.rows.values());
    if (!row || row.deleting) return;
    const machine = cluster.machine(row.nodeId);
    const isWell = machine.exists && machine.ready && !machine.outOfService;
    if (isWell && cluster.pick(3)) unmount(machine);
    cluster.write({ ...row, deleting: true });
  }

  /** The kubelet reads the attachment, and later connects; the volume is listed as in use before. */
  #use(): void {
    const { rows, attached, pick, machines } = this.#cluster;
    const nodeId = attached.find(() => pick(2))?.nodeId ?? this.#cluster.any(machines.keys()) as string;
    const [row, machine] = [rows.get(nodeId), this.#cluster.machine(nodeId)];
    if (machine.told !== undefined && machine.session !== machine.told) machine.session = machine.told;
    else if (!machine.exists) return;
    else if (row?.attached && !row.deleting) {
      machine.inUse = true;
      machine.told = row.nqn;
    } else if (!row && machine.ready) unmount(machine);
  }

  /** A node is lost, comes back, is taken out of service or switched off; one that writes rather than another. */
  #change(): void {
    const { writers, pick, machines } = this.#cluster;
    const nodeId = writers.find(() => pick(3)) ?? this.#cluster.any(machines.keys()) as string;
    const machine = this.#cluster.machine(nodeId);
    const isWell = machine.exists && machine.ready;
    const what = pick(isWell ? 8 : 3);
    if (isWell && what < 3) machine.ready = false;
    else if (isWell && what < 6) machine.exists = machine.ready = false;
    else if (what === 7) unmount(machine);
    else if (what === 0) machine.outOfService = !machine.ready;
    else Object.assign(machine, { exists: true, ready: true, outOfService: false });
  }

  /** An attacher asks for what its own watch, which is good, shows; for what is attached again only rarely. */
  #ask(controller: Controller): void {
    const cluster = this.#cluster;
    const row = cluster.any(cluster.rows.values());
    if (row && (!row.attached || row.deleting || cluster.pick(4) === 0)) controller.begin(row);
  }

  #catchUp(): void {
    for (const controller of this.#controllers) controller.follow(controller.unseen);
  }

  /** Time goes on, and watches catch up with some of what happened. */
  #pass(milliseconds: number): void {
    const cluster = this.#cluster;
    cluster.pass(milliseconds, () => this.#check());
    for (const controller of this.#controllers) {
      const { isSilent, unseen } = controller;
      if (!isSilent) controller.follow(cluster.pick(4) ? unseen : cluster.pick(unseen + 1));
    }
  }
}

function unmount(machine: Machine): void {
  machine.session = machine.told = undefined;
  machine.inUse = false;
}
