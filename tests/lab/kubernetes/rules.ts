import rbac from "../../../deploy/chart/files/rbac.json" with { type: "json" };
import type { Rule } from "./objects.ts";

/** The rules as the API server takes them: the chart keeps beside each what it is for. */
function rulesOf(rules: readonly (Rule & { why: string })[]): readonly Rule[] {
  return rules.map(({ why: _, ...rule }) => rule);
}

/** What the driver's controller and its sidecars may do in the whole cluster: the rules of their ClusterRole in the chart. */
export const clusterRules: readonly Rule[] = rulesOf(rbac.controller.cluster);

/** What they may do in the namespace that they run in: the rules of their Role. */
export const namespaceRules: readonly Rule[] = rulesOf(rbac.controller.namespace);

/** What the driver's node may do in the whole cluster: the rules of its ClusterRole. It changes nothing but events. */
export const nodeClusterRules: readonly Rule[] = rulesOf(rbac.node.cluster);

/** What it may do in the namespace that it runs in: claim its host NQN. */
export const nodeNamespaceRules: readonly Rule[] = rulesOf(rbac.node.namespace);

/** The rules cut down to one resource and one verb each, so that each can be taken away by itself. */
export function singleRules(rules: readonly Rule[]): Rule[] {
  return rules.flatMap((rule) =>
    rule.resources.flatMap((resource) => rule.verbs.map((verb) => ({ ...rule, resources: [resource], verbs: [verb] })))
  );
}
