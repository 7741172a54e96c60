/** A volume's export for tests, with generations of its NQN, and a controller of one volume that nodes have. */
import { Unreachable } from "../runtime/errors.ts";
import { FakeApi } from "./fake_api.ts";
import { FakeClock } from "./fake_clock.ts";
import { FakeController, node, NODES, NQN, putAttachment, PV, pv, PVS } from "./fake_controller.ts";

/** A fence that counts generations up, and remembers what it was asked. */
export class FakeExport {
  generation = 0;
  readonly asked: (string | undefined)[] = [];
  broken = false;

  get nqn(): string {
    return this.generation === 0 ? NQN : `${NQN}.g${this.generation}`;
  }

  /** As volumes/fence.ts: nothing to do where the node's generation is over. */
  readonly fence = (_id: string, held: string | undefined) => {
    this.asked.push(held);
    if (this.broken) return Promise.reject(new Unreachable("RouterOS refuses"));
    const generation = held === undefined ? this.generation : Number(held.split(".g")[1] ?? 0);
    if (generation < this.generation) return Promise.resolve(undefined);
    const from = this.nqn;
    this.generation++;
    return Promise.resolve({ from, to: this.nqn });
  };
}

/** Notes on the PV that a fence is owed. */
export function owe(api: FakeApi, note: string): void {
  api.change(PVS, PV, ({ metadata }) => metadata.annotations = { "rds.csi.srvlab.io/fence-owed": note });
}

/** A volume with these nodes, which have it with the NQN of now. */
export async function holding(
  nodes: string[],
  work: (it: FakeController, disk: FakeExport, again: (nodeId: string) => Promise<string>) => Promise<void>,
  more: { mode?: "single" | "multi"; off?: boolean } = {},
): Promise<void> {
  using clock = new FakeClock();
  const [api, disk] = [new FakeApi(), new FakeExport()];
  const { mode = nodes.length > 1 ? "multi" : "single" } = more;
  api.put(PVS, pv(PV, { modes: [mode === "multi" ? "ReadWriteMany" : "ReadWriteOnce"] }));
  for (const name of ["a", "b", "c"]) api.put(NODES, node(name));
  for (const [index, name] of nodes.entries()) putAttachment(api, name, { nqn: NQN, created: 1000 * index });
  const it = await new FakeController(api, clock, { fence: more.off ? undefined : disk.fence }).start();
  const again = (nodeId: string) => it.attach(nodeId, { mode, prepare: () => Promise.resolve(disk.nqn) });
  await work(it, disk, again);
  await it.stop();
}
