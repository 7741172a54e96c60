import { assertEquals, assertRejects } from "@std/assert";
import type { KubeObject } from "./kube/client.ts";
import { drained } from "./prestop.ts";
import { TimedOut, Unreachable } from "./runtime/errors.ts";

const driverName = "rds.csi.srvlab.io";

/** A node that has one attachment less each time somebody looks. */
class FakeKube {
  looks = 0;
  spec: object = {};
  lists: number[] = [];

  get<T extends KubeObject>(): Promise<T> {
    return Promise.resolve({ metadata: { name: "node" }, spec: this.spec } as unknown as T);
  }

  list<T extends KubeObject>(_path: string, each: (object: T) => void): Promise<string> {
    this.looks++;
    const count = this.lists.shift();
    if (count === undefined) return Promise.reject(new Unreachable("away"));
    const of = (attacher: string, nodeName: string) => each({ spec: { attacher, nodeName } } as unknown as T);
    for (let n = 0; n < count; n++) of(driverName, "node");
    of("another.driver", "node");
    of(driverName, "another-node");
    return Promise.resolve("1");
  }
}

function draining(kube: FakeKube, signal = AbortSignal.timeout(5000)): Promise<number | undefined> {
  return drained(kube, { driverName, nodeId: "node", signal, interval: 1 });
}

Deno.test("drained() does not wait on a node that is not being drained: a rolling update goes on", async () => {
  const kube = new FakeKube();
  kube.spec = { taints: [{ key: "node.kubernetes.io/memory-pressure" }] };
  assertEquals([await draining(kube), kube.looks], [undefined, 0]);
});

Deno.test("drained() waits for the attachments of this node and this driver alone", async () => {
  for (const spec of [{ unschedulable: true }, { taints: [{ key: "ToBeDeletedByClusterAutoscaler" }] }]) {
    const kube = new FakeKube();
    Object.assign(kube, { spec, lists: [2, 1, 0] });
    assertEquals(await draining(kube), 3);
  }
});

Deno.test("drained() gives up at its deadline, and at once when the API does not answer", async () => {
  const kube = new FakeKube();
  Object.assign(kube, { spec: { unschedulable: true }, lists: Array(10_000).fill(1) });
  const over = new AbortController();
  const waiting = assertRejects(() => draining(kube, over.signal), TimedOut);
  over.abort(new TimedOut("late"));
  await waiting;
  kube.lists = [];
  await assertRejects(() => draining(kube), Unreachable);
});
