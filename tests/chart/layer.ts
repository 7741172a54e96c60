import { denoTestFiles } from "../lab/deno_tests.ts";
import { whyNoGo } from "../lab/go_tools.ts";
import { image, whyNoImage } from "../lab/image.ts";
import { kubernetesTool, layerTools } from "../lab/kubernetes/tools.ts";
import type { Layer } from "../lab/layer.ts";
import { whyNoPromtool } from "../lab/promtool.ts";
import { kubeconformPath } from "./kubeconform.ts";
import { helmPath } from "./tools.ts";

/** What is installed: the chart, the manifests made from it, alerts and dashboard, and the controller's pod without a kubelet. */
export const chart: Layer = {
  name: "chart",
  about: "the chart and its manifests: Helm, kustomize, a real kube-apiserver, the real sidecars' arguments, promtool",
  needs: async () => await whyNoGo() ?? await whyNoPromtool() ?? await whyNoImage(),
  async run() {
    // Outside of the time that the tests have.
    await layerTools();
    for (const build of [() => kubernetesTool("kubectl"), helmPath, kubeconformPath, image]) await build();
    return await denoTestFiles("tests/chart");
  },
};
