import { labFolder } from "../lab/folder.ts";
import { whyNoGo } from "../lab/go_tools.ts";
import { layerTools } from "../lab/kubernetes/tools.ts";
import type { Counts, Layer } from "../lab/layer.ts";
import { guestKernel, whyNoMachines } from "../lab/machines/kernel.ts";
import { inNamespace, whyNoNamespace } from "../lab/namespace.ts";

/** The driver's node on a real kernel. */
export const nvme: Layer = {
  name: "nvme",
  about: "a storage machine and node machines with the kernel's NVMe/TCP, emulated",
  needs: async () => await whyNoNamespace() ?? await whyNoMachines() ?? await whyNoGo(),
  async run() {
    // Outside of the time that the tests have.
    await guestKernel();
    await layerTools();
    await using folder = await labFolder("nvme");
    const interrupted = new AbortController();
    const interrupt = () => interrupted.abort();
    for (const signal of SIGNALS) Deno.addSignalListener(signal, interrupt);
    try {
      const file = `${folder.path}/counts.json`;
      const script = new URL("machines_inside.ts", import.meta.url);
      await inNamespace(script, { args: [file], folder: folder.path, signal: interrupted.signal });
      if (interrupted.signal.aborted) throw new Error("ended early; everything is removed");
      const counts: Counts = JSON.parse(await Deno.readTextFile(file));
      return counts;
    } finally {
      for (const signal of SIGNALS) Deno.removeSignalListener(signal, interrupt);
    }
  },
};

const SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
