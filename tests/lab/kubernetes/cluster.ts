import { type Simulator, startSimulator } from "../../../src/simulator/simulator.ts";
import type { KubeClient } from "./client.ts";
import { type ControlPlane, startControlPlane } from "./control_plane.ts";
import { serviceAccount } from "./credentials.ts";
import * as objects from "./objects.ts";
import { type Replica, startReplica } from "./replica.ts";
import { rules } from "./rules.ts";

/** What Kubernetes knows the driver by. */
export const DRIVER = "rds.csi.srvlab.io";
/** The namespace that the tests' claims lie in. */
export const WORK = "work";
/** The nodes that there are: objects without a machine. */
export const NODES = ["node-a", "node-b", "node-c"] as const;
const ACCOUNT = { name: "rds-csi-controller", namespace: "rds-csi" };
/** Whom the driver's controller and its sidecars log in as. */
export const controllerUser = serviceAccount(ACCOUNT.namespace, ACCOUNT.name);

/** A Kubernetes without machines, with the driver's controller and its sidecars, and a simulated RouterOS over SSH. */
export interface Cluster extends AsyncDisposable {
  controlPlane: ControlPlane;
  /** For whoever may do everything. */
  kube: KubeClient;
  simulator: Simulator;
  replica: Replica;
  /** Kills the controller and its sidecars, and starts them anew. */
  crash(): Promise<void>;
  /** The end of what every process wrote, for people who look for what went wrong. */
  report(): string;
}

const settings = {
  "standalone": true,
  "standalone-nodes": NODES.join(","),
  // What RouterOS leaves unanswered is settled after twice this time.
  "rds-create-deadline": "3s",
  "rds-delete-deadline": "3s",
} as const;

/** RouterOS keeps nobody from making things twice: that is for the driver to do. */
const careless = { uniqueSlots: false, uniqueFiles: false, uniqueNqns: false, sizeOnExistingFile: true };

/** Starts everything in a folder. Letting it go ends all of it. */
export async function startCluster(folder: string): Promise<Cluster> {
  await using stack = new AsyncDisposableStack();
  const plane = { folder: `${folder}/control-plane`, users: [controllerUser] };
  const controlPlane = stack.use(await startControlPlane(plane));
  const kube = controlPlane.admin;
  await makeObjects(kube);
  const simulator = await startSimulator({ poolFolder: `${folder}/pool`, guesses: careless });
  stack.defer(() => simulator.close());
  const kubeconfig = await controlPlane.kubeconfig(controllerUser);
  const start = () => startReplica({ folder: `${folder}/replica`, simulator, kubeconfig, settings });
  const cluster = {
    controlPlane,
    kube,
    simulator,
    replica: await start(),
    async crash() {
      await cluster.replica.crash();
      cluster.replica = await start();
    },
    report: () => [...controlPlane.programs, ...cluster.replica.outputs].map(tailOf).join(""),
    [Symbol.asyncDispose]: () => all.disposeAsync(),
  };
  stack.defer(() => cluster.replica[Symbol.asyncDispose]());
  const all = stack.move();
  return cluster;
}

function tailOf({ name, output }: { name: string; output: string }): string {
  return `\n--- the end of what ${name} wrote\n${output.split("\n").slice(-40).join("\n")}\n`;
}

async function makeObjects(kube: KubeClient): Promise<void> {
  await kube.create(objects.namespaces, { metadata: { name: WORK } });
  const metadata = { name: ACCOUNT.name };
  await kube.create(objects.clusterRoles, { metadata, rules });
  await kube.create(objects.clusterRoleBindings, {
    metadata,
    subjects: [{ kind: "ServiceAccount", ...ACCOUNT }],
    roleRef: { apiGroup: "rbac.authorization.k8s.io", kind: "ClusterRole", name: ACCOUNT.name },
  });
  await kube.create(objects.csiDrivers, {
    metadata: { name: DRIVER },
    spec: { attachRequired: true, podInfoOnMount: false, fsGroupPolicy: "File", volumeLifecycleModes: ["Persistent"] },
  });
  for (const name of NODES) {
    await kube.create(objects.nodes, { metadata: { name } });
    await kube.create(objects.csiNodes, { metadata: { name }, spec: { drivers: [{ name: DRIVER, nodeID: name }] } });
  }
}
