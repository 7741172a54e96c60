import type { Kube, KubeObject } from "../kube/client.ts";
import { Conflict } from "../kube/errors.ts";
import { pvPath, RESET } from "../kube/objects.ts";
import { NotFound } from "../runtime/errors.ts";
import { OWED } from "./objects.ts";

const NODE = "rds.csi.srvlab.io/attached-node";
const AT = "rds.csi.srvlab.io/attached-at";

/** An NQN that nobody knows. */
const ANY = "any";

/** Tries of one change while others change the PV too. */
const TRIES = 5;

/** What the annotations of a PV are to be. An undefined value takes the annotation away. */
interface Wanted {
  [NODE]?: string | undefined;
  [AT]?: string | undefined;
  [OWED]?: string | undefined;
  [RESET]?: string | undefined;
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
    const shown = {
      [NODE]: nodes.map(({ nodeId }) => nodeId).join(",") || undefined,
      [AT]: nodes.map(({ since }) => new Date(since).toISOString()).join(",") || undefined,
    };
    await this.#write(pv, () => shown, signal);
  }

  /** The NQN that a fence is owed for, as it is written now. */
  async owed(pv: string, signal: AbortSignal): Promise<string | undefined> {
    return (await this.#find(pv, signal))?.metadata.annotations?.[OWED];
  }

  /**
   * Notes that whoever was told this NQN has to be cut off; `undefined`: it is not known what they were told. With two
   * different ones nobody can say which is the later.
   */
  async owe(pv: string, nqn: string | undefined, signal: AbortSignal): Promise<void> {
    await this.#write(
      pv,
      ({ [OWED]: before }) => ({ [OWED]: before === undefined ? nqn ?? ANY : before === nqn ? nqn : ANY }),
      signal,
    );
  }

  /** Takes a note away, unless it is another one by now. */
  async paid(pv: string, note: string, signal: AbortSignal): Promise<void> {
    await this.#write(pv, ({ [OWED]: now }) => now === note ? { [OWED]: undefined } : {}, signal);
  }

  /** Takes away what asks the node to try again. */
  async forgetReset(pv: string, signal: AbortSignal): Promise<void> {
    await this.#write(pv, () => ({ [RESET]: undefined }), signal);
  }

  /** @param wanted from what is there now; asked again when somebody else was quicker */
  async #write(name: string, wanted: (have: Wanted) => Wanted, signal: AbortSignal): Promise<void> {
    for (let tries = 1;; tries++) {
      const pv = await this.#find(name, signal);
      const have: Record<string, string | undefined> = pv?.metadata.annotations ?? {};
      const changed = Object.entries(wanted(have)).filter(([key, value]) => have[key] !== value);
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
