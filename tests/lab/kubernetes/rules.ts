import type { Rule } from "./objects.ts";

function rule(group: string, resources: string, verbs: string): Rule {
  return { apiGroups: [group], resources: resources.split(" "), verbs: verbs.split(" ") };
}

/** What the driver's controller and its sidecars may do in the whole cluster: the rules of their ClusterRole. */
export const clusterRules: readonly Rule[] = [
  rule("", "persistentvolumes", "get list watch create patch delete"),
  rule("", "persistentvolumeclaims", "list watch"),
  rule("", "persistentvolumeclaims/status", "patch"),
  rule("", "events", "create patch"),
  rule("", "nodes", "get patch"),
  rule("", "pods", "list"),
  // The cluster's own id is that of this namespace.
  { ...rule("", "namespaces", "get"), resourceNames: ["kube-system"] },
  rule("storage.k8s.io", "storageclasses csinodes", "list watch"),
  rule("storage.k8s.io", "volumeattachments", "get list watch patch"),
  rule("storage.k8s.io", "volumeattachments/status", "patch"),
];

/** What they may do in the namespace that they run in: the rules of their Role. */
export const namespaceRules: readonly Rule[] = [
  rule("coordination.k8s.io", "leases", "get create update"),
];

/** What the driver's node may do in the whole cluster: the rules of its ClusterRole. It changes nothing but events. */
export const nodeClusterRules: readonly Rule[] = [
  rule("", "nodes persistentvolumes", "get"),
  rule("", "pods", "list"),
  rule("", "events", "create patch"),
  rule("storage.k8s.io", "volumeattachments", "list"),
];

/** What it may do in the namespace that it runs in: claim its host NQN. */
export const nodeNamespaceRules: readonly Rule[] = [
  rule("coordination.k8s.io", "leases", "get create update"),
];

/** The rules cut down to one resource and one verb each, so that each can be taken away by itself. */
export function singleRules(rules: readonly Rule[]): Rule[] {
  return rules.flatMap((rule) =>
    rule.resources.flatMap((resource) => rule.verbs.map((verb) => ({ ...rule, resources: [resource], verbs: [verb] })))
  );
}
