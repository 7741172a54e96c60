/**
 * Volumes of KubeVirt's machines, attached one after the other. Pods are as KubeVirt makes them: a launcher pod that the
 * machine owns, and for each volume that is plugged in later a pod that the launcher pod owns.
 * @module
 */
import { assertEquals } from "@std/assert";
import { type Cluster, WORK } from "../lab/kubernetes/cluster.ts";
import * as objects from "../lab/kubernetes/objects.ts";
import { scenarios } from "./scenarios.ts";
import { assertNothingLeft, attach, attached, bound, detach, makeClaim, refusedBecause, removeClaim } from "./steps.ts";

/** So long that nobody who waits here is let through by it. */
const LONG = { "enable-vmi-serialization": true, "vmi-serialization-deadline": "20m" } as const;

const scenario = scenarios({ proxy: true, settings: LONG });

const serviceAccounts: objects.Kind<objects.KubeObject> = {
  apiVersion: "v1",
  kind: "ServiceAccount",
  plural: "serviceaccounts",
  namespaced: true,
};

type Owner = NonNullable<objects.KubeObject["metadata"]["ownerReferences"]>[number];

/** A machine: its launcher pod and what was plugged in. */
class Machine {
  readonly #cluster: Cluster;
  readonly #name: string;
  readonly #pods: string[] = [];
  readonly #volumes = new Map<string, string>();
  #launcher: Owner | undefined;

  private constructor(cluster: Cluster, name: string) {
    this.#cluster = cluster;
    this.#name = name;
  }

  /** Starts a machine that has these volumes from the beginning, or none. Its launcher pod is not ready. */
  static async start(cluster: Cluster, name: string, claims: readonly string[] = []): Promise<Machine> {
    const machine = new Machine(cluster, name);
    // No pod is taken in a namespace without it.
    const account = { name: "default", namespace: WORK };
    if (!await cluster.kube.find(serviceAccounts, account)) {
      await cluster.kube.create(serviceAccounts, { metadata: account });
    }
    for (const claim of claims) await machine.#makeVolume(claim);
    const uid = crypto.randomUUID();
    const owner = { apiVersion: "kubevirt.io/v1", kind: "VirtualMachineInstance", name, uid, controller: true };
    const pod = await machine.#makePod(`virt-launcher-${name}`, { owner, claims });
    const { metadata } = pod;
    machine.#launcher = {
      apiVersion: "v1",
      kind: "Pod",
      name: metadata.name,
      uid: metadata.uid ?? "",
      controller: true,
    };
    return machine;
  }

  /** Plugs a new volume in: a pod that uses its claim, which is not ready. Nothing is attached yet. */
  async plugIn(claim: string): Promise<void> {
    await this.#makeVolume(claim);
    if (!this.#launcher) throw new Error("the machine is not started");
    await this.#makePod(`hp-volume-${claim}`, { owner: this.#launcher, claims: [claim] });
  }

  /** Asks for a volume on node-a, as Kubernetes does for its pod. The attachment is called like the claim. */
  async ask(claim: string): Promise<void> {
    await attach(this.#cluster, claim, { node: "node-a", volume: this.#volumes.get(claim) ?? "" });
  }

  /** Says of a volume's pod that it is ready. */
  async setReady(claim: string): Promise<void> {
    const status = { phase: "Running", conditions: [{ type: "Ready", status: "True" }] };
    await this.#cluster.kube.patch(objects.pods, { name: `hp-volume-${claim}`, namespace: WORK }, { status }, "status");
  }

  /** Takes all of it away, attachments too. */
  async end(): Promise<void> {
    const { kube } = this.#cluster;
    for (const name of this.#pods) await kube.delete(objects.pods, { name, namespace: WORK });
    await Promise.all([...this.#volumes.keys()].map(async (claim) => {
      await detach(this.#cluster, claim);
      await removeClaim(this.#cluster, claim);
    }));
    // Whoever owns a pod that is still there is there too, for the collector of garbage.
    const names = (await kube.list(objects.pods, WORK)).map(({ metadata }) => metadata.name);
    assertEquals(this.#pods.filter((name) => names.includes(name)), [], `pods of ${this.#name} are left`);
  }

  async #makeVolume(claim: string): Promise<void> {
    await makeClaim(this.#cluster, claim, { volumeMode: "Block" });
    this.#volumes.set(claim, (await bound(this.#cluster, claim)).name);
  }

  async #makePod(name: string, { owner, claims }: { owner: Owner; claims: readonly string[] }): Promise<objects.Pod> {
    this.#pods.push(name);
    return await this.#cluster.kube.create(objects.pods, {
      metadata: { name, namespace: WORK, ownerReferences: [owner] },
      spec: {
        containers: [{ name: "compute", image: "none" }],
        volumes: claims.map((claimName) => ({ name: claimName, persistentVolumeClaim: { claimName } })),
      },
    });
  }
}

async function isAttached({ kube }: Cluster, name: string): Promise<boolean> {
  return (await kube.get(objects.volumeAttachments, { name })).status?.attached === true;
}

/** Waits until the controller has looked at the pods several times more: what may go on has gone on by then. */
async function looked({ kube, replica }: Cluster): Promise<void> {
  const looks = () => replica.proxy.count("GET", /\/namespaces\/work\/pods$/);
  const enough = looks() + 3;
  await kube.wait("the controller to look at the pods", () => looks() >= enough || undefined);
}

scenario(
  "of two volumes plugged into one machine the second waits until the first one's pod is ready",
  async (cluster) => {
    const machine = await Machine.start(cluster, "vm-1");
    const other = await Machine.start(cluster, "vm-2");
    for (const claim of ["one", "two"]) await machine.plugIn(claim);
    await other.plugIn("other");
    await machine.ask("one");
    await attached(cluster, "one");
    await machine.ask("two");
    await looked(cluster);
    // Another machine waits for nobody.
    await other.ask("other");
    await attached(cluster, "other");
    await looked(cluster);
    assertEquals(await isAttached(cluster, "two"), false);
    await machine.setReady("one");
    await attached(cluster, "two");
    await machine.end();
    await other.end();
    assertNothingLeft(cluster);
  },
);

scenario("the volumes that a machine starts with do not wait for each other", async (cluster) => {
  const machine = await Machine.start(cluster, "vm-3", ["root", "data"]);
  for (const claim of ["root", "data"]) await machine.ask(claim);
  for (const claim of ["root", "data"]) await attached(cluster, claim);
  // One that is plugged in waits for them: their pod is not ready.
  await machine.plugIn("late");
  await machine.ask("late");
  await looked(cluster);
  assertEquals(await isAttached(cluster, "late"), false);
  await machine.end();
  assertNothingLeft(cluster);
});

scenario("a request that was given up while it waited holds nothing", async (cluster) => {
  const machine = await Machine.start(cluster, "vm-4");
  for (const claim of ["first", "second", "third"]) await machine.plugIn(claim);
  await machine.ask("first");
  await attached(cluster, "first");
  await machine.ask("second");
  // The attacher waits 20 s for an answer, then it tells and asks again.
  await refusedBecause(cluster, "second", "DeadlineExceeded");
  await detach(cluster, "second");
  await machine.setReady("first");
  // The pod of the second is not ready, and would be waited for if its volume held the machine.
  await machine.ask("third");
  await attached(cluster, "third");
  await machine.end();
  assertNothingLeft(cluster);
});

scenario(
  "the next volume waits no longer than the deadline for one whose pod does not become ready",
  async (cluster) => {
    await cluster.replica.restartController({ "vmi-serialization-deadline": "3s" });
    const machine = await Machine.start(cluster, "vm-5");
    for (const claim of ["slow", "next"]) await machine.plugIn(claim);
    await machine.ask("slow");
    await attached(cluster, "slow");
    await machine.ask("next");
    await attached(cluster, "next");
    await machine.end();
    assertNothingLeft(cluster);
  },
);

scenario("without the setting nobody looks at pods, and nobody waits", async (cluster) => {
  await cluster.replica.restartController({ "enable-vmi-serialization": "false" });
  const { proxy } = cluster.replica;
  const machine = await Machine.start(cluster, "vm-6");
  for (const claim of ["free", "freer"]) await machine.plugIn(claim);
  proxy.resetCounts();
  for (const claim of ["free", "freer"]) await machine.ask(claim);
  for (const claim of ["free", "freer"]) await attached(cluster, claim);
  assertEquals(proxy.count(undefined, /\/pods/), 0);
  await machine.end();
  assertNothingLeft(cluster);
});
