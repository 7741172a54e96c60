import type { Rule } from "./objects.ts";

function rule(group: string, resources: string, verbs: string): Rule {
  return { apiGroups: [group], resources: resources.split(" "), verbs: verbs.split(" ") };
}

/** What the driver's controller and its sidecars may do. */
export const rules: Rule[] = [
  rule("", "persistentvolumes", "get list watch create patch delete"),
  rule("", "persistentvolumeclaims", "get list watch update"),
  rule("", "persistentvolumeclaims/status", "patch"),
  rule("", "events", "list watch create update patch"),
  rule("storage.k8s.io", "storageclasses csinodes volumeattributesclasses", "get list watch"),
  rule("storage.k8s.io", "volumeattachments", "get list watch patch"),
  rule("storage.k8s.io", "volumeattachments/status", "patch"),
];
