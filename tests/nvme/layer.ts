import { countsApart } from "../lab/apart.ts";
import { whyNoGo } from "../lab/go_tools.ts";
import { layerTools } from "../lab/kubernetes/tools.ts";
import type { Layer } from "../lab/layer.ts";
import { guestKernel, whyNoMachines } from "../lab/machines/kernel.ts";
import { whyNoNamespace } from "../lab/namespace.ts";

/** The driver's node on a real kernel. */
export const nvme: Layer = {
  name: "nvme",
  about: "a storage machine and node machines with the kernel's NVMe/TCP, emulated",
  needs: async () => await whyNoNamespace() ?? await whyNoMachines() ?? await whyNoGo(),
  async run() {
    // Outside of the time that the tests have.
    await guestKernel();
    await layerTools();
    return await countsApart(new URL("machines_inside.ts", import.meta.url), "nvme");
  },
};
