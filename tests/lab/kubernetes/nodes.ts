import type { KubeClient } from "./client.ts";
import * as objects from "./objects.ts";

/** Makes a node that is Ready and has a driver: objects without a machine. */
export async function makeNode(kube: KubeClient, { name, driver }: { name: string; driver: string }): Promise<void> {
  await kube.create(objects.nodes, { metadata: { name } });
  await setCondition(kube, name, "True");
  await kube.create(objects.csiNodes, { metadata: { name }, spec: { drivers: [{ name: driver, nodeID: name }] } });
}

/** Says of a node that it is Ready, is not, or has not been heard of for long (`Unknown`, as of one that died). */
export async function setCondition(kube: KubeClient, name: string, status: objects.Condition["status"]): Promise<void> {
  const conditions = [{ type: "Ready", status, reason: "Laboratory", message: "said by a test" }];
  await kube.patch(objects.nodes, { name }, { status: { conditions } }, "status");
}
