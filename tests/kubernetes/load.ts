import { assert, assertEquals } from "@std/assert";
import { createHash } from "node:crypto";
import { parseManagedNqn } from "../../src/nvme/nqn.ts";
import { pause } from "../../src/runtime/deadline.ts";
import type { Row } from "../../src/simulator/values.ts";
import { PREFIX } from "../lab/driver.ts";
import { type Cluster, DRIVER, NODES, WORK } from "../lab/kubernetes/cluster.ts";
import * as objects from "../lab/kubernetes/objects.ts";
import {
  attach,
  attached,
  bound,
  detach,
  diskOf,
  disks,
  files,
  makeClaim,
  removeClaim,
  setVolumesInUse,
} from "./steps.ts";

/** Chance that can be had again: the same seed, the same throws. */
export class Dice {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  /** From 0 on, and less than 1 (mulberry32). */
  throw(): number {
    this.#state = (this.#state + 0x6D2B79F5) >>> 0;
    let mixed = this.#state;
    mixed = Math.imul(mixed ^ (mixed >>> 15), mixed | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  }

  /** Whether something happens that happens so often, 0 to 1. */
  happens(share: number): boolean {
    return this.throw() < share;
  }

  /** One of them. @throws when there is none */
  pick<T>(all: readonly T[]): T {
    if (all.length === 0) throw new Error("there is nothing to pick from");
    return all[Math.floor(this.throw() * all.length)] as T;
  }

  /** Dice of its own for each who needs some, so that nobody's throws depend on who is quicker. */
  another(): Dice {
    return new Dice(Math.floor(this.throw() * 2 ** 32));
  }
}

/** The name that kube-controller-manager gives an attachment: the same node gets the same name again. */
export function attachmentName(volumeId: string, node: string): string {
  return `csi-${createHash("sha256").update(`${volumeId}${DRIVER}${node}`).digest("hex")}`;
}

/** How many of each kind are at work; each has a volume of its own. */
export interface LoadOptions {
  dice: Dice;
  /** A ReadWriteOnce volume that goes from node to node, at times by force. */
  movers: number;
  /** A ReadWriteMany volume that is migrated live, back and forth. */
  migrators: number;
  /** A ReadWriteOnce volume that two nodes ask for at once. */
  racers: number;
  /** Volumes that are made, used, at times grown, and deleted. */
  churners: number;
}

type Node = typeof NODES[number];
type Volume = Awaited<ReturnType<typeof bound>>;

/** Attachments that come and go without end, made as Kubernetes makes them. Whatever stays away ends it with an error. */
export class Load {
  /** How often something was brought to its end. */
  steps = 0;
  /** What the events of each claim must say of its migrations, a line for each. */
  readonly migrations = new Map<string, string[]>();
  readonly #cluster: Cluster;
  readonly #stop = new AbortController();
  readonly #actors: Promise<void>[];
  readonly #inUse = new Map<Node, Set<string>>();
  #telling: Promise<void> = Promise.resolve();
  #failed = false;

  constructor(cluster: Cluster, options: LoadOptions) {
    this.#cluster = cluster;
    const { dice } = options;
    const several = (count: number, name: string, act: (dice: Dice, claim: string) => Promise<void>) =>
      Array.from({ length: count }, (_, number) => act.call(this, dice.another(), `${name}-${number}`));
    this.#actors = [
      ...several(options.movers, "mover", this.#move),
      ...several(options.migrators, "migrator", this.#migrate),
      ...several(options.racers, "racer", this.#race),
      ...several(options.churners, "churner", this.#churn),
    ];
    for (const actor of this.#actors) actor.catch(() => this.#failed = true);
  }

  /** Waits until so many more steps are done. */
  async further(steps: number): Promise<void> {
    const enough = this.steps + steps;
    const isThere = () => this.steps >= enough || this.#failed || undefined;
    await this.#cluster.kube.wait(`${steps} more steps of the load`, isThere, { seen: () => String(this.steps) });
    if (this.#failed) await this.stop();
  }

  /** Lets each bring to its end what it has begun. @throws what one of them has met */
  async stop(): Promise<void> {
    this.#stop.abort();
    await Promise.all(this.#actors);
    await this.#telling;
  }

  get #isOver(): boolean {
    return this.#stop.signal.aborted || this.#failed;
  }

  async #move(dice: Dice, claim: string): Promise<void> {
    await makeClaim(this.#cluster, claim);
    const volume = await bound(this.#cluster, claim);
    let node = dice.pick(NODES);
    await this.#ask(volume, node);
    let generation = await this.#given(volume, node);
    while (!this.#isOver) {
      const next = dice.pick(NODES.filter((other) => other !== node));
      const isForced = dice.happens(0.3);
      if (isForced) await this.#use(node, volume.id, true);
      const isEarly = dice.happens(0.5);
      if (isEarly) await this.#ask(volume, next);
      await this.#leave(volume, node);
      if (!isEarly) await this.#ask(volume, next);
      const now = await this.#given(volume, next);
      const isRight = isForced ? now > generation : now === generation;
      assert(isRight, `${claim} went ${isForced ? "by force " : ""}from generation ${generation} to ${now} of its NQN`);
      generation = now;
      await this.#left(volume, node);
      if (isForced) await this.#use(node, volume.id, false);
      node = next;
      await this.#done(dice);
    }
  }

  async #migrate(dice: Dice, claim: string): Promise<void> {
    await makeClaim(this.#cluster, claim, { accessModes: ["ReadWriteMany"], volumeMode: "Block" });
    const volume = await bound(this.#cluster, claim);
    const told: string[] = [];
    this.migrations.set(claim, told);
    let source = dice.pick(NODES);
    await this.#ask(volume, source);
    await this.#given(volume, source);
    while (!this.#isOver) {
      // Creation times are whole seconds, and no machine is migrated in the second of its start.
      await pause(1100);
      const target = dice.pick(NODES.filter((other) => other !== source));
      await this.#ask(volume, target);
      await this.#given(volume, target);
      const isCompleted = dice.happens(0.7);
      const [leaving, staying] = isCompleted ? [source, target] : [target, source];
      told.push(`MigrationStarted ${source} ${target}`);
      told.push(`${isCompleted ? "MigrationCompleted" : "MigrationFailed"} ${source} ${target}`);
      await this.#leave(volume, leaving);
      await this.#left(volume, leaving);
      source = staying;
      await this.#done(dice);
    }
  }

  async #race(dice: Dice, claim: string): Promise<void> {
    await makeClaim(this.#cluster, claim);
    const volume = await bound(this.#cluster, claim);
    while (!this.#isOver) {
      const first = dice.pick(NODES);
      const second = dice.pick(NODES.filter((other) => other !== first));
      await Promise.all([first, second].map((node) => this.#ask(volume, node)));
      await pause(dice.throw() * 2000);
      // Whoever has it by now, if anybody has.
      const [loser, winner] = dice.happens(0.5) ? [first, second] : [second, first];
      await this.#leave(volume, loser);
      await this.#given(volume, winner);
      await this.#leave(volume, winner);
      await Promise.all([first, second].map((node) => this.#left(volume, node)));
      await this.#done(dice);
    }
  }

  async #churn(dice: Dice, claim: string): Promise<void> {
    for (let turn = 0; !this.#isOver; turn++) {
      const name = `${claim}-${turn}`;
      await makeClaim(this.#cluster, name);
      const volume = await bound(this.#cluster, name);
      const node = dice.pick(NODES);
      await this.#ask(volume, node);
      await this.#given(volume, node);
      if (dice.happens(0.5)) await this.#grow(volume, name);
      // A claim may go before its last pod's volume has been detached.
      if (dice.happens(0.5)) await this.#cluster.kube.delete(objects.claims, { name, namespace: WORK });
      await detach(this.#cluster, attachmentName(volume.id, node));
      await removeClaim(this.#cluster, name);
      await this.#cluster.kube.gone(objects.persistentVolumes, { name: volume.name });
      await this.#done(dice);
    }
  }

  async #grow(volume: Volume, claim: string): Promise<void> {
    const { kube } = this.#cluster;
    const storage = "3Gi";
    await kube.patch(objects.claims, { name: claim, namespace: WORK }, {
      spec: { resources: { requests: { storage } } },
    });
    await kube.until(objects.persistentVolumes, { name: volume.name }, ({ spec }) => spec.capacity.storage === storage);
    assertEquals(diskOf(this.#cluster, volume.id)?.["size"], 3 * 1024 ** 3);
  }

  async #ask(volume: Volume, node: Node): Promise<void> {
    await attach(this.#cluster, attachmentName(volume.id, node), { node, volume: volume.name });
  }

  /** Waits until the node has it. @returns the generation of the NQN that it was told */
  async #given(volume: Volume, node: Node): Promise<number> {
    const context = await attached(this.#cluster, attachmentName(volume.id, node));
    const named = parseManagedNqn(PREFIX, context["nvme_nqn"] ?? "");
    assertEquals(named?.volumeId, volume.id);
    return named?.generation ?? 0;
  }

  async #leave(volume: Volume, node: Node): Promise<void> {
    await this.#cluster.kube.delete(objects.volumeAttachments, { name: attachmentName(volume.id, node) });
  }

  async #left(volume: Volume, node: Node): Promise<void> {
    await this.#cluster.kube.gone(objects.volumeAttachments, { name: attachmentName(volume.id, node) });
  }

  /** Says for the node's kubelet whether it uses the volume; one after the other, because it always says all. */
  async #use(node: Node, volumeId: string, isInUse: boolean): Promise<void> {
    const all = this.#inUse.get(node) ?? new Set();
    this.#inUse.set(node, all);
    if (isInUse) all.add(volumeId);
    else all.delete(volumeId);
    this.#telling = this.#telling.then(() => setVolumesInUse(this.#cluster, node, [...all]));
    await this.#telling;
  }

  async #done(dice: Dice): Promise<void> {
    this.steps++;
    await pause(dice.throw() * 500);
  }
}

/** Each volume of Kubernetes is there once on RouterOS, exported, and nothing else is. */
export async function assertSameVolumes(cluster: Cluster): Promise<void> {
  const volumes = await cluster.kube.list(objects.persistentVolumes);
  const ids = volumes.map(({ spec }) => spec.csi?.volumeHandle ?? "").sort();
  const rows: (Row & { slot: string })[] = disks(cluster);
  assertEquals(rows.map(({ slot }) => slot), ids);
  assertEquals(rows.filter((row) => row["nvme-tcp-export"] !== true), []);
  assertEquals(files(cluster), ids.map((id) => `storage-pool/metal-csi/${id}.img`));
}

/** Detaches whatever is attached, and deletes all claims. */
export async function removeAll(cluster: Cluster): Promise<void> {
  const attachments = await cluster.kube.list(objects.volumeAttachments);
  await Promise.all(attachments.map(({ metadata }) => detach(cluster, metadata.name)));
  const claims = await cluster.kube.list(objects.claims, WORK);
  await Promise.all(claims.map(({ metadata }) => removeClaim(cluster, metadata.name)));
}
