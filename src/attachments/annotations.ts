import type { Kube, KubeObject } from "../kube/client.ts";
import { Conflict } from "../kube/errors.ts";
import { NotFound } from "../runtime/errors.ts";
import { RESET } from "./objects.ts";
import { pvPath } from "./view.ts";

const NODE = "rds.csi.srvlab.io/attached-node";
const AT = "rds.csi.srvlab.io/attached-at";
/** The NQN of an export that a node may still write to: it is cut off when the last node that works with it has left. */
const OWED = "rds.csi.srvlab.io/fence-owed";

/** Tries of one change while others change the PV too. */
const TRIES = 5;

/** What the annotations of a PV are to be. An undefined value takes the annotation away. */
interface Wanted {
  [NODE]?: string | undefined;
  [AT]?: string | undefined;
  [OWED]?: string | undefined;
  [RESET]?: undefined;
}

/** The driver's annotations on PVs. Those of attachments are for people and never read back; a fence that is owed is. */
export class Annotations {
  readonly #kube: Pick<Kube, "get" | "patch">;

  constructor(kube: Pick<Kube, "get" | "patch">) {
    this.#kube = kube;
  }

  /**
   * Writes which nodes have the volume, and since when; takes both away when none has. A PV that is gone is fine.
   * @throws whatever else the API server answers; {@linkcode Conflict} when it never held still
   */
  async show(pv: string, nodes: readonly { nodeId: string; since: number }[], signal: AbortSignal): Promise<void> {
    await this.#write(pv, {
      [NODE]: nodes.map(({ nodeId }) => nodeId).join(",") || undefined,
      [AT]: nodes.map(({ since }) => new Date(since).toISOString()).join(",") || undefined,
    }, signal);
  }

  /** The NQN that a fence is owed for, as it is written now. */
  async owed(pv: string, signal: AbortSignal): Promise<string | undefined> {
    return (await this.#find(pv, signal))?.metadata.annotations?.[OWED];
  }

  /** Notes that a fence is owed, or (undefined) that it is no longer. */
  async owe(pv: string, nqn: string | undefined, signal: AbortSignal): Promise<void> {
    await this.#write(pv, { [OWED]: nqn }, signal);
  }

  /** Takes away what asks the node to try again. */
  async forgetReset(pv: string, signal: AbortSignal): Promise<void> {
    await this.#write(pv, { [RESET]: undefined }, signal);
  }

  async #write(name: string, wanted: Wanted, signal: AbortSignal): Promise<void> {
    for (let tries = 1;; tries++) {
      const pv = await this.#find(name, signal);
      const have = pv?.metadata.annotations ?? {};
      const changed = Object.entries(wanted).filter(([key, value]) => have[key] !== value);
      if (!pv || changed.length === 0) return;
      const annotations = Object.fromEntries(changed.map(([key, value]) => [key, value ?? null]));
      const { resourceVersion } = pv.metadata;
      try {
        await this.#kube.patch(pvPath(name), { metadata: { resourceVersion, annotations } }, { signal });
        return;
      } catch (error) {
        if (error instanceof NotFound) return;
        if (!(error instanceof Conflict) || tries >= TRIES) throw error;
      }
    }
  }

  async #find(name: string, signal: AbortSignal): Promise<KubeObject | undefined> {
    try {
      return await this.#kube.get(pvPath(name), { signal });
    } catch (error) {
      if (error instanceof NotFound) return undefined;
      throw error;
    }
  }
}
