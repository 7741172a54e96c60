import { assertEquals, assertRejects } from "@std/assert";
import type { KubeObject } from "../kube/client.ts";
import { Cancelled, Unreachable } from "../runtime/errors.ts";
import { type Entered, MachineLock } from "./machine_lock.ts";

interface Made {
  claims?: string[];
  owner?: { kind: string; name: string };
  labels?: Record<string, string>;
  ready?: boolean;
  phase?: string;
  deletionTimestamp?: string;
}

class FakeKube {
  pods: Record<string, Made> = {};
  error: Error | undefined;
  lists = 0;

  // deno-lint-ignore require-await -- stands in for a request
  async list<T extends KubeObject>(path: string, each: (object: T) => void): Promise<string> {
    this.lists++;
    if (this.error) throw this.error;
    if (path !== "/api/v1/namespaces/vms/pods") return "1";
    for (const [name, made] of Object.entries(this.pods)) each(podOf(name, made) as unknown as T);
    return "1";
  }
}

function podOf(name: string, { claims = [], owner, labels = {}, ready = false, phase = "Pending", ...rest }: Made) {
  const ownerReferences = owner ? [{ ...owner, uid: `uid-${owner.name}`, apiVersion: "v1" }] : [];
  return {
    metadata: { name, uid: `uid-${name}`, labels, ownerReferences, ...rest },
    spec: { volumes: [{ emptyDir: {} }, ...claims.map((claimName) => ({ persistentVolumeClaim: { claimName } }))] },
    status: { phase, conditions: [{ type: "Ready", status: ready ? "True" : "False" }] },
  };
}

const machine = { kind: "VirtualMachineInstance", name: "vm-1" };
const launcher = { kind: "Pod", name: "launcher" };

/** A machine's launcher pod, and a hot-plug pod for each claim. */
function hotPlugging(...claims: string[]): FakeKube {
  const kube = new FakeKube();
  kube.pods = { launcher: { owner: machine, ready: true, phase: "Running" } };
  for (const claim of claims) kube.pods[`hp-volume-${claim}`] = { claims: [claim], owner: launcher };
  return kube;
}

function lockOf(kube: FakeKube, now: () => number = () => 0) {
  const lock = new MachineLock({ kube, interval: 1, deadline: 60_000, now });
  const end = new AbortController();
  const enter = (claim: string, signal = end.signal, namespace = "vms") =>
    lock.enter(`volume-${claim}`, { namespace, name: claim }, signal);
  return { enter, [Symbol.dispose]: () => end.abort() };
}

/** Whether it has entered after several more looks at the pods. */
async function hasEntered(kube: FakeKube, entering: Promise<Entered>): Promise<boolean> {
  let entered = false;
  entering.then(() => entered = true, () => {});
  const enough = kube.lists + 3;
  for (let tries = 0; !entered && kube.lists < enough && tries < 200; tries++) {
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
  return entered;
}

/** A clock that goes on at every look. */
function ticking(): () => number {
  let time = 0;
  return () => time += 1;
}

Deno.test("MachineLock lets the next volume of a machine in when the pod of the one before is ready", async () => {
  const kube = hotPlugging("a", "b");
  using lock = lockOf(kube, ticking());
  const { enter } = lock;
  (await enter("a")).attached();
  const second = enter("b");
  assertEquals(await hasEntered(kube, second), false);
  kube.pods["hp-volume-a"] = { claims: ["a"], owner: launcher, ready: true };
  (await second).attached();
});

Deno.test("MachineLock does not wait for a pod that is gone, finished or being deleted", async () => {
  const ends: Record<string, Made | undefined> = {
    gone: undefined,
    finished: { claims: ["a"], owner: launcher, phase: "Succeeded" },
    deleted: { claims: ["a"], owner: launcher, deletionTimestamp: "2030-01-01T00:00:00Z" },
  };
  for (const [how, end] of Object.entries(ends)) {
    const kube = hotPlugging("a", "b");
    using lock = lockOf(kube, ticking());
    const { enter } = lock;
    (await enter("a")).attached();
    const second = enter("b");
    assertEquals(await hasEntered(kube, second), false, how);
    if (end) kube.pods["hp-volume-a"] = end;
    else delete kube.pods["hp-volume-a"];
    await second;
  }
});

Deno.test("MachineLock lets the next one in when the one before failed", async () => {
  const kube = hotPlugging("a", "b");
  using lock = lockOf(kube, ticking());
  const { enter } = lock;
  const first = await enter("a");
  const second = enter("b");
  assertEquals(await hasEntered(kube, second), false);
  first.failed();
  await second;
});

Deno.test("MachineLock waits for no volume longer than its deadline", async () => {
  let time = 0;
  const kube = hotPlugging("a", "b");
  using lock = lockOf(kube, () => time);
  const { enter } = lock;
  (await enter("a")).attached();
  time = 59_999;
  const second = enter("b");
  assertEquals(await hasEntered(kube, second), false);
  time = 60_000;
  await second;
});

Deno.test("MachineLock lets volumes of one and the same pod in together: it is ready only with all of them", async () => {
  const kube = new FakeKube();
  kube.pods = { launcher: { owner: machine, claims: ["a", "b"] } };
  using lock = lockOf(kube);
  const { enter } = lock;
  await Promise.all([enter("a"), enter("b")]);
});

Deno.test("MachineLock finds the machine by the pod's owner, its owner's owner and labels, in pods of any node", async () => {
  const kube = hotPlugging("hot");
  kube.pods["hp-volume-of-nobody"] = { claims: ["adrift"], owner: { kind: "Pod", name: "unknown" } };
  kube.pods["owned"] = { claims: ["owned"], owner: machine };
  kube.pods["labelled"] = { claims: ["labelled"], labels: { "kubevirt.io/vmi": "vm-1" } };
  kube.pods["labelled-2"] = { claims: ["labelled-2"], labels: { "vm.kubevirt.io/name": "vm-1" } };
  for (const claim of ["owned", "labelled", "labelled-2"]) {
    using lock = lockOf(kube, ticking());
    const { enter } = lock;
    await enter("hot");
    const second = enter(claim);
    assertEquals(await hasEntered(kube, second), false, claim);
  }
  using lock = lockOf(kube);
  const { enter } = lock;
  await enter("hot");
  await enter("adrift");
});

Deno.test("MachineLock lets volumes of other machines, of none and of no pod in at once", async () => {
  const kube = hotPlugging("a");
  kube.pods["other"] = { claims: ["other"], owner: { ...machine, name: "vm-2" } };
  kube.pods["plain"] = { claims: ["plain"], owner: { kind: "ReplicaSet", name: "vm-1" } };
  using lock = lockOf(kube);
  const { enter } = lock;
  await enter("a");
  for (const claim of ["other", "plain", "unused"]) await enter(claim);
  await enter("a", undefined, "elsewhere");
});

Deno.test("MachineLock lets the same volume in again at once, and a failure of one request ends no other's hold", async () => {
  const kube = hotPlugging("a", "b");
  using lock = lockOf(kube, ticking());
  const { enter } = lock;
  const caller = new AbortController();
  await enter("a", caller.signal);
  const again = await enter("a");
  caller.abort();
  const second = enter("b");
  assertEquals(await hasEntered(kube, second), false);
  again.failed();
  await second;
});

Deno.test("MachineLock: a client that goes away waits for nothing and holds nothing", async () => {
  const kube = hotPlugging("a", "b", "c");
  using lock = lockOf(kube, ticking());
  const { enter } = lock;
  const [first, second] = [new AbortController(), new AbortController()];
  await enter("a", first.signal);
  const waiting = enter("b", second.signal);
  second.abort();
  await assertRejects(() => waiting, Cancelled);
  first.abort();
  (await enter("c")).failed();
  await assertRejects(() => enter("a", AbortSignal.abort()), Cancelled);
});

Deno.test("MachineLock: what was attached stays held although its client goes away afterwards", async () => {
  const kube = hotPlugging("a", "b");
  using lock = lockOf(kube, ticking());
  const { enter } = lock;
  const caller = new AbortController();
  (await enter("a", caller.signal)).attached();
  caller.abort();
  const second = enter("b");
  assertEquals(await hasEntered(kube, second), false);
});

Deno.test("MachineLock never guesses a machine: what the API cannot say is an error, at first and while waiting", async () => {
  const kube = hotPlugging("a", "b");
  using lock = lockOf(kube, ticking());
  const { enter } = lock;
  await enter("a");
  const waiting = enter("b");
  assertEquals(await hasEntered(kube, waiting), false);
  kube.error = new Unreachable("away");
  await assertRejects(() => waiting, Unreachable);
  await assertRejects(() => enter("b"), Unreachable);
});

Deno.test("MachineLock: those who wait share one look at the pods", async () => {
  const kube = hotPlugging("a", "b", "c", "d");
  let time = 0;
  const lock = new MachineLock({ kube, interval: 5, now: () => time });
  const enter = (claim: string) =>
    lock.enter(`volume-${claim}`, { namespace: "vms", name: claim }, AbortSignal.timeout(200)).catch(() => {});
  await enter("a");
  time = 1;
  const waiting = ["b", "c", "d"].map(enter);
  await Promise.all(waiting);
  assertEquals(kube.lists, 4); // A first look each; later ones, on a clock that stands, are shared.
});
