/**
 * The cluster of `deno task lab cluster`, in namespaces of its own. Arguments: its folder, nothing, and the file that says
 * where the machines' agents listen.
 * @module
 */
import { print } from "../layer.ts";
import { AGENT } from "../machines/machine.ts";
import { kubernetesTool } from "../kubernetes/tools.ts";
import { startPodCluster } from "./pod_cluster.ts";

const [folder = "", , note = ""] = Deno.args;

const ended = new Promise<void>((resolve) => {
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) Deno.addSignalListener(signal, () => resolve());
});

print("Starting control plane, storage machine and two nodes with kubelets takes some two minutes\n");
await using cluster = await startPodCluster(folder);
const machines = [cluster.target, ...cluster.nodes].map(({ machine }) => machine);
await Deno.writeTextFile(
  note,
  JSON.stringify(Object.fromEntries(machines.map((each) => [each.name, each.port(AGENT)]))),
);
print(
  [
    ...machines.map(({ name, address }) => `${name.padEnd(12)} ${address.padEnd(12)} deno task lab exec ${name} dmesg`),
    `export KUBECONFIG=${cluster.kubeconfig}`,
    `alias kubectl=${await kubernetesTool("kubectl")}`,
    "Images: only localhost/busybox:lab, with imagePullPolicy Never and hostNetwork. The API server does not reach the",
    "kubelets, so there is no kubectl exec and no kubectl logs: deno task lab exec node1 ls /var/log/pods",
    "It goes on running; Ctrl-C ends it and removes everything.",
    "",
  ].join("\n"),
);
await ended;
