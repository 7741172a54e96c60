import { assertEquals } from "@std/assert";
import { poll } from "../runtime/deadline.ts";
import { Unreachable } from "../runtime/errors.ts";
import type { KubeObject, WatchEvent } from "./client.ts";
import { Conflict } from "./errors.ts";
import { StartupTaint } from "./startup_taint.ts";

const key = "rds.csi.srvlab.io/agent-not-ready";
const other = "node.kubernetes.io/unreachable";

interface FakeNode extends KubeObject {
  spec: { taints?: { key: string }[] };
}

/** CSINodes as told, and Nodes that can be changed. */
class FakeKube {
  readonly nodes = new Map<string, FakeNode>();
  readonly csiNodes: KubeObject[] = [];
  /** Thrown by the next patches. */
  readonly failures: Error[] = [];
  tell: (event: WatchEvent<KubeObject>) => void = () => {};

  add(name: string, taints: string[], drivers: string[]): KubeObject {
    this.nodes.set(name, {
      metadata: { name, resourceVersion: "1" },
      spec: { taints: taints.map((key) => ({ key })) },
    });
    const object = { metadata: { name, resourceVersion: "1" }, spec: { drivers: drivers.map((name) => ({ name })) } };
    this.csiNodes.push(object);
    return object;
  }

  taints(name: string): string[] | undefined {
    return this.nodes.get(name)?.spec.taints?.map(({ key }) => key);
  }

  list<T extends KubeObject>(_path: string, each: (object: T) => void): Promise<string> {
    for (const object of this.csiNodes) each(object as T);
    return Promise.resolve("1");
  }

  async *watch<T extends KubeObject>(_path: string, { signal }: { signal: AbortSignal }) {
    while (!signal.aborted) {
      yield await new Promise<WatchEvent<T>>((resolve, reject) => {
        this.tell = (event) => resolve(event as WatchEvent<T>);
        signal.addEventListener("abort", () => reject(signal.reason));
      });
    }
  }

  get<T extends KubeObject>(path: string): Promise<T> {
    return Promise.resolve(this.nodes.get(path.slice("/api/v1/nodes/".length)) as unknown as T);
  }

  patch<T extends KubeObject>(path: string, change: object): Promise<T> {
    const failure = this.failures.shift();
    if (failure) return Promise.reject(failure);
    const node = this.nodes.get(path.slice("/api/v1/nodes/".length));
    Object.assign(node?.spec ?? {}, (change as FakeNode).spec);
    return Promise.resolve(node as unknown as T);
  }
}

/** Leads until the end of the block. */
function leading(kube: FakeKube) {
  const stop = new AbortController();
  const led = new StartupTaint({ kube, driver: "ours", key, retry: 1 }).lead(stop.signal);
  return {
    until: (condition: () => boolean) =>
      poll(() => condition() || undefined, { signal: AbortSignal.timeout(5000), interval: 1 }),
    async [Symbol.asyncDispose]() {
      stop.abort();
      await led;
    },
  };
}

Deno.test("StartupTaint takes its own taint alone off the nodes that have the driver, now and later", async () => {
  const kube = new FakeKube();
  kube.add("has", [other, key], ["theirs", "ours"]);
  const late = kube.add("late", [key], ["theirs"]);
  await using taint = leading(kube);
  await taint.until(() => kube.taints("has")?.length === 1);
  assertEquals([kube.taints("has"), kube.taints("late")], [[other], [key]]);
  Object.assign(late, { spec: { drivers: [{ name: "ours" }] } });
  await taint.until(() => {
    kube.tell({ type: "MODIFIED", object: late });
    return kube.taints("late")?.length === 0;
  });
});

Deno.test("StartupTaint tries again when the node was changed meanwhile, and when the API failed", async () => {
  const kube = new FakeKube();
  kube.failures.push(new Conflict("moved"), new Unreachable("away"), new Unreachable("away"));
  kube.add("node", [key], ["ours"]);
  await using taint = leading(kube);
  await taint.until(() => kube.taints("node")?.length === 0);
  assertEquals(kube.failures, []);
});
