import { NotFound } from "../runtime/errors.ts";
import { pause } from "../runtime/deadline.ts";
import { log } from "../runtime/log.ts";
import type { Kube, KubeObject } from "./client.ts";
import { Conflict } from "./errors.ts";
import { csiNodePath, nodePath } from "./objects.ts";
import { Watched } from "./watched.ts";

/** Settings of {@linkcode StartupTaint}. */
export interface StartupTaintOptions {
  kube: Pick<Kube, "list" | "watch" | "get" | "patch">;
  /** The driver's name, as CSINodes have it. */
  driver: string;
  /** The taint's key, whatever its value and effect. */
  key: string;
  /** Milliseconds until what failed is tried again. */
  retry?: number;
}

/** A CSINode (storage.k8s.io/v1), the part of it that is read. */
interface CsiNodeObject extends KubeObject {
  spec?: { drivers?: { name: string }[] };
}

/** A Node (v1), the part of it that is read. */
interface NodeObject extends KubeObject {
  spec?: { taints?: { key: string }[] };
}

/** Tries of one change while others change the Node too. */
const TRIES = 5;

/**
 * Takes the taint that keeps pods away from a new node off it, once the node's CSINode shows the driver: before that a pod
 * with a volume could be put there and wait. Who wants it lets nodes join with it (the kubelet's `--register-with-taints`).
 */
export class StartupTaint {
  readonly #options: StartupTaintOptions;
  readonly #pending = new Set<string>();
  #wake = () => {};

  constructor(options: StartupTaintOptions) {
    this.#options = options;
  }

  /** Watches until `signal` aborts. */
  async lead(signal: AbortSignal): Promise<void> {
    const { kube, driver, retry = 10_000 } = this.#options;
    const nodes = new Watched<true>({
      kube,
      path: csiNodePath(),
      keep: (object) => (object as CsiNodeObject).spec?.drivers?.some(({ name }) => name === driver) || undefined,
      changed: (name, has) => has && this.#add(name),
    });
    await nodes.start(signal, signal).catch(() => {});
    while (!signal.aborted) {
      const woken = new Promise<void>((resolve) => this.#wake = resolve);
      for (const name of this.#pending) await this.#look(name, signal);
      await Promise.race([woken, pause(retry, signal)]).catch(() => {});
    }
    await nodes.ended;
  }

  #add(name: string): void {
    this.#pending.add(name);
    this.#wake();
  }

  async #look(name: string, signal: AbortSignal): Promise<void> {
    try {
      await this.#remove(name, signal);
      this.#pending.delete(name);
    } catch (error) {
      if (!signal.aborted) log.warn("the startup taint could not be taken off: it is tried again", { name, error });
    }
  }

  async #remove(name: string, signal: AbortSignal): Promise<void> {
    const { kube, key } = this.#options;
    for (let tries = 1;; tries++) {
      try {
        const { metadata: { resourceVersion }, spec } = await kube.get<NodeObject>(nodePath(name), { signal });
        const taints = spec?.taints?.filter((taint) => taint.key !== key) ?? [];
        if (taints.length === (spec?.taints?.length ?? 0)) return;
        await kube.patch(nodePath(name), { metadata: { resourceVersion }, spec: { taints } }, { signal });
        log.info("the node has the driver: its startup taint is gone", { name, key });
        return;
      } catch (error) {
        if (error instanceof NotFound) return;
        if (!(error instanceof Conflict) || tries >= TRIES) throw error;
      }
    }
  }
}
