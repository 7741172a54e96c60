import type { SimulatorOptions } from "../../../src/simulator/options.ts";
import { type Simulator, startSimulator } from "../../../src/simulator/simulator.ts";
import type { KubeClient } from "./client.ts";
import { type ControlPlane, type ControlPlaneOptions, startControlPlane } from "./control_plane.ts";
import { serviceAccount } from "./credentials.ts";
import { makeNode } from "./nodes.ts";
import * as objects from "./objects.ts";
import { Replica, type RouterOs, type Settings } from "./replica.ts";
import { clusterRules, namespaceRules, nodeClusterRules, nodeNamespaceRules } from "./rules.ts";

/** What Kubernetes knows the driver by. */
export const DRIVER = "rds.csi.srvlab.io";
/** The namespace that the driver's controller runs in. */
export const HOME = "rds-csi";
/** The namespace that the tests' claims lie in. */
export const WORK = "work";
/** The nodes that there are: objects without a machine. */
export const NODES = ["node-a", "node-b", "node-c"] as const;
const ACCOUNT = { name: "rds-csi-controller", namespace: HOME };
/** Whom the driver's controller and its sidecars log in as. */
export const controllerUser = serviceAccount(ACCOUNT.namespace, ACCOUNT.name);
const NODE_ACCOUNT = { name: "rds-csi-node", namespace: HOME };
/** Whom the driver's nodes log in as. */
export const nodeUser = serviceAccount(NODE_ACCOUNT.namespace, NODE_ACCOUNT.name);

/** What can be set. */
export interface ClusterOptions {
  /** How many controllers, each with sidecars of its own; one by default. */
  replicas?: 1 | 2;
  /** Settings of the controllers, besides those that they cannot do without. */
  settings?: Settings;
  /** Whether the sidecars elect leaders; by default where there are several of each. */
  leaderElection?: boolean;
  /** Whether the controllers keep attachments in memory instead of talking to the API server. */
  standalone?: boolean;
  /** Whether each controller has a proxy before the API server: {@linkcode Replica.proxy}. */
  proxy?: boolean;
  /** What controllers and sidecars may do, where it is not what the chart gives them. */
  rules?: { cluster?: readonly objects.Rule[]; namespace?: readonly objects.Rule[] };
  /** What is different about the control plane. */
  controlPlane?: Pick<ControlPlaneOptions, "audited" | "apiServerArgs">;
  simulator?: Partial<SimulatorOptions>;
}

/** A Kubernetes without machines, with the driver's controllers and their sidecars, and a simulated RouterOS over SSH. */
export interface Cluster extends AsyncDisposable {
  controlPlane: ControlPlane;
  /** For whoever may do everything. */
  kube: KubeClient;
  simulator: Simulator;
  replicas: readonly Replica[];
  /** The first of the replicas. */
  replica: Replica;
  /** Kills the first replica's controller and sidecars, and starts them anew. */
  crash(): Promise<void>;
  /** The end of what every process wrote, for people who look for what went wrong. */
  report(): string;
}

const deadlines = {
  // What RouterOS leaves unanswered is settled after twice this time.
  "rds-create-deadline": "3s",
  "rds-delete-deadline": "3s",
} as const;

/** RouterOS keeps nobody from making things twice: that is for the driver to do. */
const careless = { uniqueSlots: false, uniqueFiles: false, uniqueNqns: false, sizeOnExistingFile: true };

/** Starts everything in a folder. Letting it go ends all of it. */
export async function startCluster(folder: string, options: ClusterOptions = {}): Promise<Cluster> {
  await using stack = new AsyncDisposableStack();
  const controlPlane = stack.use(await startKubernetes(folder, options));
  const guesses = { ...careless, ...options.simulator?.guesses };
  const simulator = await startSimulator({ poolFolder: `${folder}/pool`, ...options.simulator, guesses });
  stack.defer(() => simulator.close());
  const replicas = await Promise.all(
    Array.from({ length: options.replicas ?? 1 }, async (_, number) => {
      const made = { name: `replica-${number + 1}`, folder, controlPlane, simulator, stack };
      return stack.use(await replicaOf(options, made));
    }),
  );
  const [replica] = replicas as [Replica];
  await Promise.all(replicas.map((each) => each.start()));
  const all = stack.move();
  return {
    controlPlane,
    kube: controlPlane.admin,
    simulator,
    replicas,
    replica,
    async crash() {
      await replica.crash();
      await replica.start();
    },
    report: () => reportOf(controlPlane, replicas),
    [Symbol.asyncDispose]: () => all.disposeAsync(),
  };
}

/** A control plane with what the driver's manifests make, and nodes that have the driver. Letting it go ends it. */
export async function startKubernetes(
  folder: string,
  options: Pick<ClusterOptions, "controlPlane" | "rules"> & { nodes?: readonly string[] } = {},
): Promise<ControlPlane> {
  const users = [controllerUser, nodeUser];
  const controlPlane = await startControlPlane({ folder: `${folder}/control-plane`, users, ...options.controlPlane });
  try {
    await makeObjects(controlPlane.admin, options);
  } catch (error) {
    await controlPlane[Symbol.asyncDispose]();
    throw error;
  }
  return controlPlane;
}

/** A replica that is not started yet. */
export async function replicaOf(
  options: ClusterOptions,
  made: { name: string; folder: string; controlPlane: ControlPlane; simulator: RouterOs; stack: AsyncDisposableStack },
): Promise<Replica> {
  const { replicas = 1, leaderElection = replicas > 1, standalone = false } = options;
  const { name, controlPlane, simulator, stack } = made;
  const folder = `${made.folder}/${name}`;
  await Deno.mkdir(folder, { recursive: true });
  const kubeconfig = await controlPlane.kubeconfig(controllerUser, { path: `${folder}/sidecars.kubeconfig` });
  const proxy = options.proxy ? stack.use(await controlPlane.proxy()) : undefined;
  const own = { path: `${folder}/controller.kubeconfig`, ...(proxy ? { url: proxy.url } : {}) };
  const attachments = standalone
    ? { "standalone": true, "standalone-nodes": NODES.join(",") } as const
    : { "kubeconfig": await controlPlane.kubeconfig(controllerUser, own), "namespace": HOME };
  return new Replica({
    name,
    folder,
    simulator,
    kubeconfig,
    settings: { ...attachments, ...deadlines, ...options.settings },
    electIn: leaderElection ? HOME : undefined,
    proxy,
  });
}

/** Gives controllers and sidecars other rules, from now on. */
export async function setRules(
  { kube }: Pick<Cluster, "kube">,
  { cluster = clusterRules, namespace = namespaceRules }: NonNullable<ClusterOptions["rules"]>,
): Promise<void> {
  await kube.patch(objects.clusterRoles, { name: ACCOUNT.name }, { rules: cluster });
  await kube.patch(objects.roles, ACCOUNT, { rules: namespace });
}

/** The end of what every process wrote. */
export function reportOf(controlPlane: ControlPlane, replicas: readonly Replica[]): string {
  const ofReplicas = replicas.flatMap(({ outputs }, number) =>
    outputs.map(({ name, output }) => ({ name: `${name} ${number + 1}`, output }))
  );
  return [...controlPlane.programs, ...ofReplicas].map(tailOf).join("");
}

function tailOf({ name, output }: { name: string; output: string }): string {
  return `\n--- the end of what ${name} wrote\n${output.split("\n").slice(-40).join("\n")}\n`;
}

async function makeObjects(
  kube: KubeClient,
  { rules = {}, nodes = NODES }: Pick<ClusterOptions, "rules"> & { nodes?: readonly string[] },
): Promise<void> {
  for (const name of [WORK, HOME]) await kube.create(objects.namespaces, { metadata: { name } });
  await makeAccount(kube, ACCOUNT, {
    cluster: rules.cluster ?? clusterRules,
    namespace: rules.namespace ?? namespaceRules,
  });
  await makeAccount(kube, NODE_ACCOUNT, { cluster: nodeClusterRules, namespace: nodeNamespaceRules });
  await kube.create(objects.csiDrivers, {
    metadata: { name: DRIVER },
    spec: { attachRequired: true, podInfoOnMount: false, fsGroupPolicy: "File", volumeLifecycleModes: ["Persistent"] },
  });
  for (const name of nodes) await makeNode(kube, { name, driver: DRIVER });
}

/** Gives a service account its rules. */
async function makeAccount(
  kube: KubeClient,
  account: Required<objects.Ref>,
  rules: Required<NonNullable<ClusterOptions["rules"]>>,
): Promise<void> {
  const metadata = { name: account.name };
  const subjects = [{ kind: "ServiceAccount", ...account }];
  const roleRef = { apiGroup: "rbac.authorization.k8s.io", ...metadata };
  await kube.create(objects.clusterRoles, { metadata, rules: rules.cluster });
  await kube.create(objects.clusterRoleBindings, { metadata, subjects, roleRef: { ...roleRef, kind: "ClusterRole" } });
  await kube.create(objects.roles, { metadata: account, rules: rules.namespace });
  await kube.create(objects.roleBindings, { metadata: account, subjects, roleRef: { ...roleRef, kind: "Role" } });
}
