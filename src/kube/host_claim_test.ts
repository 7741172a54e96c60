import { assertEquals, assertMatch, assertRejects } from "@std/assert";
import { AlreadyExists, NotFound, Unreachable } from "../runtime/errors.ts";
import type { KubeObject } from "./client.ts";
import { Conflict } from "./errors.ts";
import type { Told } from "./events.ts";
import { HostClaim } from "./host_claim.ts";
import type { LeaseObject } from "./lease.ts";

const hostNqn = "nqn.2014-08.org.nvmexpress:uuid:aaaaaaaa-0000-4000-8000-aaaaaaaaaaaa";
const lease = "/apis/coordination.k8s.io/v1/namespaces/rds-csi/leases/rds-csi-host-";
const { signal } = new AbortController();

/** An API server with Nodes and Leases. */
class FakeKube {
  readonly namespace = "rds-csi";
  readonly objects = new Map<string, KubeObject>();
  readonly fail: Error[] = [];
  #version = 0;

  node(name: string, uid = `uid-of-${name}`): void {
    this.objects.set(`/api/v1/nodes/${name}`, { metadata: { name, uid } });
  }

  // deno-lint-ignore require-await -- stands in for a request
  async get<T extends KubeObject>(path: string): Promise<T> {
    const found = this.objects.get(path);
    if (!found) throw new NotFound(path);
    return structuredClone(found) as T;
  }

  // deno-lint-ignore require-await -- as above
  async create<T extends KubeObject>(path: string, object: object): Promise<T> {
    const made = object as KubeObject;
    const key = `${path}/${made.metadata.name}`;
    if (this.objects.has(key)) throw new AlreadyExists(key);
    return this.#put(key, made) as T;
  }

  // deno-lint-ignore require-await -- as above
  async replace<T extends KubeObject>(path: string, object: object): Promise<T> {
    const error = this.fail.shift();
    if (error) throw error;
    const given = object as KubeObject;
    if (this.objects.get(path)?.metadata.resourceVersion !== given.metadata.resourceVersion) throw new Conflict(path);
    return this.#put(path, given) as T;
  }

  #put(path: string, object: KubeObject): KubeObject {
    const metadata = { ...object.metadata, resourceVersion: String(++this.#version) };
    this.objects.set(path, { ...structuredClone(object), metadata });
    return object;
  }

  get leases(): LeaseObject[] {
    return [...this.objects].flatMap(([path, object]) => path.startsWith(lease) ? [object as LeaseObject] : []);
  }

  get holder(): string | undefined {
    return this.leases[0]?.spec?.holderIdentity;
  }
}

function claimOf(kube: FakeKube, nodeId: string) {
  kube.node(nodeId);
  const told: Told[] = [];
  const gauge: number[] = [];
  const claim = new HostClaim({
    kube,
    nodeId,
    events: { post: (each) => void told.push(each) },
    metrics: { hostNqnDuplicate: { set: (value: number) => gauge.push(value) } },
  });
  return { look: () => claim.look(hostNqn, signal), told, gauge };
}

Deno.test("HostClaim.look() claims the host NQN by a Lease that goes with the Node", async () => {
  const kube = new FakeKube();
  const { look, told, gauge } = claimOf(kube, "node-1");
  await look();
  await look();
  assertEquals(kube.leases.map(({ metadata, spec }) => [metadata.ownerReferences, spec?.holderIdentity]), [
    [[{ apiVersion: "v1", kind: "Node", name: "node-1", uid: "uid-of-node-1" }], "node-1"],
  ]);
  assertMatch(kube.leases[0]?.metadata.name ?? "", /^rds-csi-host-[0-9a-f]{16}$/);
  assertEquals([told, gauge], [[], [0, 0]]);
  kube.node("node-1", "made anew");
  await look();
  assertEquals(kube.leases[0]?.metadata.ownerReferences?.[0]?.uid, "made anew");
});

Deno.test("HostClaim.look() reports a second node with the same host NQN, on its Node, each time", async () => {
  const kube = new FakeKube();
  const first = claimOf(kube, "node-1");
  const second = claimOf(kube, "node-2");
  for (let times = 0; times < 6; times++) {
    await first.look();
    await second.look();
  }
  assertEquals([first.gauge, second.gauge], [Array(6).fill(0), Array(6).fill(1)]);
  assertEquals([first.told.length, second.told.length, kube.holder], [0, 6, "node-1"]);
  const [{ about, reason, message }] = second.told as [Told];
  assertEquals(about, { apiVersion: "v1", kind: "Node", name: "node-2", uid: "uid-of-node-2" });
  assertEquals(reason, "DuplicateHostNqn");
  assertMatch(message, /node-2 and node-1 both connect as nqn\.2014.*gen-hostnqn/);
});

Deno.test("HostClaim.look() takes over from a Node that is gone, and from one that no longer has the NQN", async () => {
  const kube = new FakeKube();
  const first = claimOf(kube, "node-1");
  const second = claimOf(kube, "node-2");
  await first.look();
  kube.objects.delete("/api/v1/nodes/node-1");
  await second.look();
  assertEquals([kube.holder, second.gauge], ["node-2", [0]]);
  const third = claimOf(kube, "node-3");
  for (let times = 0; times < 4; times++) await third.look();
  assertEquals([kube.holder, third.gauge], ["node-3", [1, 1, 1, 0]]);
  await second.look();
  assertEquals(second.gauge, [0, 1]);
});

Deno.test("HostClaim.look() says nothing when somebody was quicker, or the API does not answer", async () => {
  const kube = new FakeKube();
  const { look, told, gauge } = claimOf(kube, "node-1");
  await look();
  kube.fail.push(new Conflict("moved"));
  await look();
  kube.fail.push(new Unreachable("away"));
  await assertRejects(look, Unreachable, "away");
  assertEquals([told, gauge], [[], [0]]);
});
