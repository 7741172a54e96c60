/** Which object of its kind. */
export interface Ref {
  name: string;
  namespace?: string;
}

/** Anything that the API server keeps. */
export interface KubeObject {
  metadata: Ref & {
    uid?: string;
    resourceVersion?: string;
    labels?: Record<string, string>;
    annotations?: Record<string, string>;
    finalizers?: string[];
    creationTimestamp?: string;
    deletionTimestamp?: string;
    ownerReferences?: { apiVersion: string; kind: string; name: string; uid: string; controller?: boolean }[];
  };
}

/** A kind of objects; the type parameter is what they look like. */
export interface Kind<T extends KubeObject> {
  apiVersion: string;
  kind: string;
  plural: string;
  namespaced: boolean;
  /** Never there: it ties the type to the kind. */
  looks?: T;
}

function kind<T extends KubeObject>(apiVersion: string, kind: string, rest: Partial<Kind<T>> = {}): Kind<T> {
  return { apiVersion, kind, plural: `${kind.toLowerCase()}s`, namespaced: false, ...rest };
}

/** What somebody says about the state of an object. */
export interface Condition {
  type: string;
  status: "True" | "False" | "Unknown";
  reason?: string;
  message?: string;
}

/** A PersistentVolumeClaim. Sizes are quantities: `3Gi`. */
export interface Claim extends KubeObject {
  spec: {
    accessModes: string[];
    resources: { requests: { storage: string } };
    storageClassName: string;
    volumeMode?: "Filesystem" | "Block";
    volumeName?: string;
  };
  status?: { phase?: string; capacity?: { storage: string }; conditions?: Condition[] };
}

/** A PersistentVolume. */
export interface PersistentVolume extends KubeObject {
  spec: {
    accessModes: string[];
    capacity: { storage: string };
    volumeMode?: string;
    claimRef?: Ref;
    storageClassName?: string;
    persistentVolumeReclaimPolicy?: string;
    csi?: { driver: string; volumeHandle: string; fsType?: string; volumeAttributes?: Record<string, string> };
  };
  status?: { phase?: string };
}

/** A VolumeAttachment. */
export interface VolumeAttachment extends KubeObject {
  spec: { attacher: string; nodeName: string; source: { persistentVolumeName?: string } };
  status?: {
    attached: boolean;
    attachmentMetadata?: Record<string, string>;
    attachError?: { message?: string };
    detachError?: { message?: string };
  };
}

/** A StorageClass. */
export interface StorageClass extends KubeObject {
  provisioner: string;
  parameters?: Record<string, string>;
  allowVolumeExpansion?: boolean;
  reclaimPolicy?: "Delete" | "Retain";
  volumeBindingMode?: "Immediate" | "WaitForFirstConsumer";
}

/** A CSIDriver. */
export interface CsiDriver extends KubeObject {
  spec: { attachRequired?: boolean; podInfoOnMount?: boolean; fsGroupPolicy?: string; volumeLifecycleModes?: string[] };
}

/** A Node. */
export interface Node extends KubeObject {
  spec?: { taints?: { key: string; value?: string; effect: string }[] };
  status?: { conditions?: Condition[]; volumesInUse?: string[] };
}

/** A CSINode. */
export interface CsiNode extends KubeObject {
  spec: { drivers: { name: string; nodeID: string; topologyKeys?: string[] }[] };
}

/** A Lease. */
export interface Lease extends KubeObject {
  spec?: { holderIdentity?: string; leaseTransitions?: number; renewTime?: string };
}

/** A Pod. */
export interface Pod extends KubeObject {
  spec: PodSpec;
  status?: { phase?: string; conditions?: Condition[]; containerStatuses?: ContainerStatus[] };
}

/** What a Pod is to be, the part of it that tests say. */
export interface PodSpec {
  nodeName?: string;
  nodeSelector?: Record<string, string>;
  terminationGracePeriodSeconds?: number;
  hostNetwork?: boolean;
  restartPolicy?: "Always" | "Never";
  automountServiceAccountToken?: boolean;
  securityContext?: { runAsUser?: number; runAsGroup?: number; fsGroup?: number };
  tolerations?: { key?: string; operator: string; effect?: string; tolerationSeconds?: number }[];
  containers: {
    name: string;
    image: string;
    imagePullPolicy?: "Never";
    command?: string[];
    volumeMounts?: { name: string; mountPath: string }[];
    volumeDevices?: { name: string; devicePath: string }[];
  }[];
  volumes?: { name: string; persistentVolumeClaim?: { claimName: string } }[];
}

/** How a container is. */
export interface ContainerStatus {
  name: string;
  ready: boolean;
  restartCount: number;
  /** `containerd://…` */
  containerID?: string;
  state?: { running?: object; terminated?: { exitCode: number; message?: string } };
}

/** A Deployment or a DaemonSet. */
export interface Workload extends KubeObject {
  spec: {
    replicas?: number;
    strategy?: { type: "Recreate" };
    selector: { matchLabels: Record<string, string> };
    template: { metadata: { labels: Record<string, string>; annotations?: Record<string, string> }; spec: PodSpec };
  };
  status?: {
    observedGeneration?: number;
    desiredNumberScheduled?: number;
    updatedNumberScheduled?: number;
    numberAvailable?: number;
  };
}

/** An Event of the core group. */
export interface Event extends KubeObject {
  involvedObject: { kind?: string; name?: string; namespace?: string; uid?: string };
  reason?: string;
  message?: string;
  type?: string;
}

/** One rule of RBAC. */
export interface Rule {
  apiGroups: string[];
  resources: string[];
  /** Only the objects of these names; all when absent. */
  resourceNames?: string[];
  verbs: string[];
}

/** A ClusterRole or a Role. */
export interface Role extends KubeObject {
  rules: readonly Rule[];
}

/** A ClusterRoleBinding or a RoleBinding. */
export interface RoleBinding extends KubeObject {
  subjects: ({ kind: string } & Ref)[];
  roleRef: { apiGroup: string; kind: string; name: string };
}

const storage = "storage.k8s.io/v1";
const rbac = "rbac.authorization.k8s.io/v1";

export const namespaces = kind<KubeObject>("v1", "Namespace");
export const claims = kind<Claim>("v1", "PersistentVolumeClaim", { namespaced: true });
export const persistentVolumes = kind<PersistentVolume>("v1", "PersistentVolume");
export const nodes = kind<Node>("v1", "Node");
export const events = kind<Event>("v1", "Event", { namespaced: true });
export const volumeAttachments = kind<VolumeAttachment>(storage, "VolumeAttachment");
export const storageClasses = kind<StorageClass>(storage, "StorageClass", { plural: "storageclasses" });
export const csiDrivers = kind<CsiDriver>(storage, "CSIDriver");
export const csiNodes = kind<CsiNode>(storage, "CSINode");
export const clusterRoles = kind<Role>(rbac, "ClusterRole");
export const clusterRoleBindings = kind<RoleBinding>(rbac, "ClusterRoleBinding");
export const roles = kind<Role>(rbac, "Role", { namespaced: true });
export const roleBindings = kind<RoleBinding>(rbac, "RoleBinding", { namespaced: true });
export const deployments = kind<Workload>("apps/v1", "Deployment", { namespaced: true });
export const daemonSets = kind<Workload>("apps/v1", "DaemonSet", { namespaced: true });
export const pods = kind<Pod>("v1", "Pod", { namespaced: true });
export const leases = kind<Lease>("coordination.k8s.io/v1", "Lease", { namespaced: true });
