import { createHash } from "node:crypto";
import { pause } from "../runtime/deadline.ts";
import { AlreadyExists, NotFound } from "../runtime/errors.ts";
import { log } from "../runtime/log.ts";
import type { Kube, KubeObject } from "./client.ts";
import { Conflict } from "./errors.ts";
import type { Events } from "./events.ts";
import type { LeaseObject } from "./lease.ts";
import { nodePath } from "./objects.ts";

/** Settings of {@linkcode HostClaim}. */
export interface HostClaimOptions {
  kube: Pick<Kube, "get" | "create" | "replace" | "namespace">;
  events: Pick<Events, "post">;
  metrics: { hostNqnDuplicate: { set(value: number): void } };
  /** This node's name. */
  nodeId: string;
  /** Milliseconds between two looks. */
  interval?: number;
}

/** Name of the Lease by which a node claims its host NQN. */
export function claimName(hostNqn: string): string {
  return `rds-csi-host-${createHash("sha256").update(hostNqn).digest("hex").slice(0, 16)}`;
}

/** Looks after which a claim that nobody renewed is nobody's. */
const LOOKS = 3;

/**
 * Finds out whether another node of the cluster connects with this node's host NQN, as machines cloned from one image do:
 * each node claims its NQN by a Lease that Kubernetes removes with the Node. It reports and stops nothing.
 */
export class HostClaim {
  readonly #options: HostClaimOptions;
  /** The other's claim as it was seen, and how many looks have shown it so. */
  #seen: { version: string | undefined; looks: number } | undefined;

  constructor(options: HostClaimOptions) {
    this.#options = options;
  }

  /** Looks at once and then every ten minutes, until `signal` aborts. */
  async follow(hostNqn: string, signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      await this.look(hostNqn, signal).catch((error) => {
        if (!signal.aborted) log.warn("whether another node has this node's host NQN cannot be asked", { error });
      });
      await pause(this.#options.interval ?? 600_000, signal).catch(() => {});
    }
  }

  /** One look. @throws whatever leaves it unknown */
  async look(hostNqn: string, signal: AbortSignal): Promise<void> {
    const { kube, nodeId } = this.#options;
    const node = await kube.get(nodePath(nodeId), { signal });
    const name = claimName(hostNqn);
    const lease = await orNone(kube.get<LeaseObject>(`${this.#path}/${name}`, { signal }));
    const holder = lease?.spec?.holderIdentity;
    const isOthers = holder !== undefined && holder !== "" && holder !== nodeId;
    if (lease && isOthers && await this.#isAlive(lease, holder, signal)) this.#tell(hostNqn, { holder, node });
    else if (await this.#claim(name, { lease, node }, signal)) this.#options.metrics.hostNqnDuplicate.set(0);
  }

  get #path(): string {
    return `/apis/coordination.k8s.io/v1/namespaces/${this.#options.kube.namespace}/leases`;
  }

  /** A node that has another NQN by now, or none, no longer renews its claim. */
  async #isAlive(lease: LeaseObject, holder: string, signal: AbortSignal): Promise<boolean> {
    const { resourceVersion: version } = lease.metadata;
    if (this.#seen?.version === version) this.#seen = { version, looks: (this.#seen?.looks ?? 0) + 1 };
    else this.#seen = { version, looks: 1 };
    if (this.#seen.looks > LOOKS) return false;
    return await orNone(this.#options.kube.get(nodePath(holder), { signal })) !== undefined;
  }

  /** @returns false when somebody else was quicker: the next look shows who */
  async #claim(
    name: string,
    { lease, node }: { lease: LeaseObject | undefined; node: KubeObject },
    signal: AbortSignal,
  ): Promise<boolean> {
    const { kube, nodeId } = this.#options;
    const now = new Date().toISOString().replace("Z", "000Z"); // MicroTime of meta/v1
    const { name: owner, uid } = node.metadata;
    const ownerReferences = [{ apiVersion: "v1", kind: "Node", name: owner, uid }];
    const metadata = { ...lease?.metadata, name, namespace: kube.namespace, ownerReferences };
    const spec = { holderIdentity: nodeId, renewTime: now };
    const object = { apiVersion: "coordination.k8s.io/v1", kind: "Lease", metadata, spec };
    try {
      if (lease) await kube.replace(`${this.#path}/${name}`, object, { signal });
      else await kube.create(this.#path, object, { signal });
      return true;
    } catch (error) {
      if (error instanceof Conflict || error instanceof AlreadyExists) return false;
      throw error;
    }
  }

  #tell(hostNqn: string, { holder, node }: { holder: string; node: KubeObject }): void {
    const { metrics, events, nodeId } = this.#options;
    const { uid } = node.metadata;
    metrics.hostNqnDuplicate.set(1);
    const message =
      `the nodes ${nodeId} and ${holder} both connect as ${hostNqn}: the storage server cannot tell them apart, ` +
      "and one's volumes may be taken for the other's. Give each its own /etc/nvme/hostnqn and hostid ('nvme gen-hostnqn'), " +
      "then drain and restart it";
    log.error("another node has this node's host NQN", { hostNqn, node: nodeId, other: holder });
    const about = { apiVersion: "v1", kind: "Node", name: nodeId, ...(uid ? { uid } : {}) };
    events.post({ about, reason: "DuplicateHostNqn", message });
  }
}

async function orNone<T>(asked: Promise<T>): Promise<T | undefined> {
  try {
    return await asked;
  } catch (error) {
    if (error instanceof NotFound) return undefined;
    throw error;
  }
}
