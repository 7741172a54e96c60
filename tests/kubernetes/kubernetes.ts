import { countsApart } from "../lab/apart.ts";
import { whyNoGo } from "../lab/go_tools.ts";
import { layerTools } from "../lab/kubernetes/tools.ts";
import type { Layer } from "../lab/layer.ts";
import { whyNoNamespace } from "../lab/namespace.ts";
import { whyNoPromtool } from "../lab/promtool.ts";

/** The driver's controller with the real sidecars against a real Kubernetes API. */
export const kubernetes: Layer = {
  name: "kubernetes",
  about: "etcd, kube-apiserver with RBAC, kube-controller-manager and the real sidecars against the controller",
  needs: async () => await whyNoGo() ?? await whyNoNamespace() ?? await whyNoPromtool(),
  async run() {
    // Outside of the time that the tests have.
    await layerTools();
    return await countsApart(new URL("inside.ts", import.meta.url), "kubernetes");
  },
};
