import { labFolder } from "../lab/folder.ts";
import { whyNoGo } from "../lab/go_tools.ts";
import { layerTools } from "../lab/kubernetes/tools.ts";
import type { Counts, Layer } from "../lab/layer.ts";
import { whyNoPromtool } from "../lab/promtool.ts";
import { inNamespace, whyNoNamespace } from "../lab/namespace.ts";

/** The driver's controller with the real sidecars against a real Kubernetes API. */
export const kubernetes: Layer = {
  name: "kubernetes",
  about: "etcd, kube-apiserver with RBAC, kube-controller-manager and the real sidecars against the controller",
  needs: async () => await whyNoGo() ?? await whyNoNamespace() ?? await whyNoPromtool(),
  async run() {
    // Outside of the time that the tests have.
    await layerTools();
    await using folder = await labFolder("kubernetes");
    const interrupted = new AbortController();
    const interrupt = () => interrupted.abort();
    for (const signal of SIGNALS) Deno.addSignalListener(signal, interrupt);
    try {
      const file = `${folder.path}/counts.json`;
      const script = new URL("inside.ts", import.meta.url);
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
