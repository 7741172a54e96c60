/** A controller's attachments on a fake API for tests: the real view and the real decisions, nothing else of Kubernetes. */
import { assertEquals } from "@std/assert";
import type { Told } from "../kube/events.ts";
import type { PvObject, VolumeAttachmentObject } from "../kube/objects.ts";
import type { ControllerMetrics } from "../runtime/controller_metrics.ts";
import { ATTACHMENTS, FakeApi, FakeKube, NODES, PVS } from "./fake_api.ts";
import { FakeClock } from "./fake_clock.ts";
import type { NodeObject } from "./danger.ts";
import { KubernetesAttachments, type KubernetesAttachmentsOptions } from "./kubernetes.ts";
import type { Fence } from "./release.ts";
import { View } from "./view.ts";

export const DRIVER = "rds.csi.srvlab.io";
export const ID = "pvc-0a1b2c3d4e5f60718293a4b5c6d7";
export const PV = "pvc-0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9";
export const PREFIX = "nqn.2000-02.com.mikrotik:pvc-";
export const NQN = PREFIX + ID.slice(4);

/** A PV of the driver, ReadWriteOnce unless told otherwise, bound to the claim `team/data`. */
export function pv(
  name = PV,
  more: { handle?: string; modes?: string[]; claimed?: boolean; timeout?: string } = {},
): PvObject {
  const { handle = ID, modes = ["ReadWriteOnce"], claimed = true, timeout } = more;
  return {
    metadata: { name },
    spec: {
      accessModes: modes,
      csi: {
        driver: DRIVER,
        volumeHandle: handle,
        ...(timeout ? { volumeAttributes: { migrationTimeoutSeconds: timeout } } : {}),
      },
      ...(claimed ? { claimRef: { namespace: "team", name: "data", uid: "claim-uid" } } : {}),
    },
  };
}

/** An attachment, a claim unless `nqn` says that the node has it. */
export function attachment(
  nodeName: string,
  more: { pv?: string; uid?: string; nqn?: string; volumeId?: string; created?: number; deleting?: boolean } = {},
): VolumeAttachmentObject {
  const { pv = PV, nqn, volumeId, created = 0, deleting, uid = `uid-${pv}-${nodeName}` } = more;
  return {
    metadata: {
      name: `csi-${pv}-${nodeName}`,
      uid,
      creationTimestamp: new Date(created).toISOString(),
      ...(deleting ? { deletionTimestamp: new Date(created).toISOString() } : {}),
    },
    spec: { attacher: DRIVER, nodeName, source: { persistentVolumeName: pv } },
    status: {
      attached: nqn !== undefined,
      ...(nqn === undefined ? {} : {
        attachmentMetadata: { nvme_nqn: nqn, ...(volumeId ? { volume_id: volumeId } : {}) },
      }),
    },
  };
}

/** A node that is well unless told otherwise. */
export function node(
  name: string,
  more: { ready?: string; inUse?: string[]; outOfService?: boolean } = {},
): NodeObject {
  const { ready = "True", inUse = [], outOfService } = more;
  return {
    metadata: { name },
    spec: { taints: outOfService ? [{ key: "node.kubernetes.io/out-of-service", effect: "NoExecute" }] : [] },
    status: {
      conditions: [{ type: "MemoryPressure", status: "False" }, { type: "Ready", status: ready }],
      volumesInUse: inUse.map((id) => `kubernetes.io/csi/${DRIVER}^${id}`),
    },
  };
}

export function putAttachment(api: FakeApi, ...given: Parameters<typeof attachment>): void {
  api.put(ATTACHMENTS, attachment(...given));
}

export function dropAttachment(api: FakeApi, nodeName: string, name = PV): void {
  api.remove(ATTACHMENTS, `csi-${name}-${nodeName}`);
}

/** The driver's annotations of a PV, without what they all begin with. */
export function annotationsOf(api: FakeApi, name = PV): Record<string, string> {
  const found = Object.entries(api.find(PVS, name)?.metadata.annotations ?? {});
  return Object.fromEntries(found.map(([key, value]) => [key.replace("rds.csi.srvlab.io/", ""), value]));
}

/** Counts like prom-client's, by labels. */
class Counted {
  readonly counts: Record<string, number> = {};
  inc(labels: Record<string, string> = {}): void {
    const key = Object.values(labels).join(" ");
    this.counts[key] = (this.counts[key] ?? 0) + 1;
  }
  startTimer(): () => number {
    return () => 0;
  }
  observe(): void {}
}

/** One replica. */
export class FakeController {
  readonly api: FakeApi;
  readonly clock: FakeClock;
  readonly kube: FakeKube;
  readonly view: View;
  readonly attachments: KubernetesAttachments;
  readonly told: Told[] = [];
  readonly granted: string[] = [];
  readonly metrics = {
    attaches: new Counted(),
    detaches: new Counted(),
    conflicts: new Counted(),
    attachmentDuration: new Counted(),
    fences: new Counted(),
  };
  readonly #stop = new AbortController();

  constructor(
    api: FakeApi,
    clock: FakeClock,
    more: {
      fence?: Fence | undefined;
      machines?: KubernetesAttachmentsOptions["machines"];
      keyOf?: (id: string) => string;
    } = {},
  ) {
    this.api = api;
    this.clock = clock;
    this.kube = new FakeKube(api);
    const now = () => clock.now;
    // As volumes/id.ts: the long form of an id and its short one are one volume.
    const { keyOf = (id) => /^pvc-.{36}$/.test(id) ? `pvc-${id.slice(4).replaceAll("-", "").slice(0, 28)}` : id } =
      more;
    this.view = new View({ kube: this.kube, driver: DRIVER, keyOf, now });
    this.attachments = new KubernetesAttachments({
      view: this.view,
      kube: this.kube,
      driver: DRIVER,
      fence: more.fence,
      events: { post: (told) => void this.told.push(told) },
      metrics: this.metrics as unknown as ControllerMetrics, // Only what is counted here is used.
      machines: more.machines,
      granted: (uid) => void this.granted.push(uid),
      now,
    });
  }

  async start(): Promise<this> {
    const { signal } = this.#stop;
    await this.clock.until(this.view.start(signal, signal));
    await this.clock.idle();
    return this;
  }

  /** As it ends when it is killed: nothing that it works at goes on. */
  async stop(): Promise<void> {
    this.#stop.abort(new Error("the process ended"));
    this.api.clients.delete(this.kube);
    await this.clock.until(this.view.ended());
  }

  get signal(): AbortSignal {
    return this.#stop.signal;
  }

  /** Attaches, and answers what the node is told. */
  async attach(
    nodeId: string,
    more: {
      id?: string;
      mode?: "single" | "multi";
      prepare?: (alone: boolean) => Promise<string>;
      signal?: AbortSignal;
    } = {},
  ): Promise<string> {
    const { id = ID, mode = "single", prepare = () => Promise.resolve(NQN), signal = this.signal } = more;
    return await this.clock.until(this.attachments.attach(id, { nodeId, mode }, prepare, signal));
  }

  /** As Kubernetes does it: only what is being deleted is detached. */
  async detach(nodeId: string | undefined, id = ID): Promise<void> {
    for (const { metadata, spec } of this.api.all(ATTACHMENTS) as VolumeAttachmentObject[]) {
      if (nodeId !== undefined && spec?.nodeName !== nodeId) continue;
      this.api.change(ATTACHMENTS, metadata.name, (object) => object.metadata.deletionTimestamp ??= "now");
    }
    await this.clock.idle();
    await this.clock.until(this.attachments.detach(id, nodeId, this.signal));
  }

  /** The reasons of what was told, in order. */
  get reasons(): string[] {
    return this.told.map(({ reason }) => reason);
  }

  get messages(): string {
    return this.told.map(({ message }) => message).join("\n");
  }
}

/** A controller on a cluster with the nodes a to d and one PV. */
export async function cluster(
  work: (it: FakeController & { api: FakeApi }, clock: FakeClock) => Promise<void>,
  options: ConstructorParameters<typeof FakeController>[2] & { modes?: string[]; before?: (api: FakeApi) => void } = {},
): Promise<void> {
  using clock = new FakeClock();
  const api = new FakeApi();
  for (const name of ["a", "b", "c", "d"]) api.put(NODES, node(name));
  api.put(PVS, pv(PV, { modes: options.modes ?? ["ReadWriteOnce"] }));
  options.before?.(api);
  const it = await new FakeController(api, clock, options).start();
  try {
    await work(it, clock);
  } finally {
    await it.stop();
  }
  assertEquals(clock.waiting, 0, "timers are left over");
}

/** The API refuses what begins like that (`PATCH /api/…`), so many times. */
export function refuse(kube: FakeKube, what: string, error: () => Error, times = Infinity): void {
  let left = times;
  kube.before = (verb, path) => {
    if (`${verb} ${path}`.startsWith(what) && left-- > 0) throw error();
  };
}

export { ATTACHMENTS, NODES, PVS };
