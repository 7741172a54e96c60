import { countsApart } from "../lab/apart.ts";
import { whyNoContainers } from "../lab/cluster/containers.ts";
import { whyNoGo } from "../lab/go_tools.ts";
import { image, whyNoImage } from "../lab/image.ts";
import { layerTools } from "../lab/kubernetes/tools.ts";
import type { Layer } from "../lab/layer.ts";
import { guestKernel, whyNoMachines } from "../lab/machines/kernel.ts";
import { whyNoNamespace } from "../lab/namespace.ts";
import { helmPath } from "../chart/tools.ts";

/** All of it together, as people install it. */
export const cluster: Layer = {
  name: "cluster",
  about: "pods on real kubelets in machines, with the node from the chart and the image, on the kernel's NVMe/TCP",
  needs: async () =>
    await whyNoNamespace() ?? await whyNoMachines() ?? await whyNoContainers() ?? await whyNoImage() ?? await whyNoGo(),
  async run() {
    // Outside of the time that the tests have.
    await guestKernel();
    await layerTools("kube-scheduler", "kubelet", "kubectl");
    await helmPath();
    await image();
    return await countsApart(new URL("inside.ts", import.meta.url), "cluster");
  },
};
