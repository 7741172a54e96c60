import { least, type Values } from "./chart.ts";

/** What a user of the Go driver's chart may have set: every key of it that is there or was, but its image. */
export const oldValues: Values = {
  nameOverride: "rds",
  rds: {
    ...least["rds"] as object,
    storageIP: "198.51.100.1",
    sshPort: 22,
    nvmePort: 4420,
    sshUser: "metal-csi",
    secretName: "s",
  },
  controller: {
    replicas: 1,
    logLevel: 5,
    orphanReconciler: { enabled: true, checkInterval: "1h", gracePeriod: "5m", dryRun: false },
    attachmentGracePeriod: "30s",
    attachmentReconcileInterval: "5m",
    vmiSerialization: { enabled: true, cacheTTL: "60s" },
  },
  node: { logLevel: 5, kubeletPath: "/var/lib/kubelet", terminationGracePeriodSeconds: 60 },
  sidecars: {
    provisioner: { additionalArgs: ["--timeout=300s"] },
    snapshotter: { image: { tag: "v8.2.0" } },
    livenessProbe: {},
  },
  monitoring: {
    enabled: true,
    port: 9809,
    serviceMonitor: { enabled: true, forceEnable: false, interval: "30s", labels: {} },
    rdsMonitoring: { enabled: true },
  },
  storageClasses: [
    { name: "rds-nvme", enabled: true, nvmeAddress: "", nvmePort: "", volumePath: "", mountOptions: [] },
    { name: "rds-nvme-rwx", enabled: false, accessModes: ["ReadWriteMany"] },
  ],
  snapshotClass: { enabled: true },
  namespace: { create: false },
};

/** Those of its keys that have no effect here. */
export const withoutEffect: readonly string[] = [
  "controller.attachmentGracePeriod",
  "controller.attachmentReconcileInterval",
  "controller.logLevel",
  "controller.orphanReconciler.dryRun",
  "controller.orphanReconciler.enabled",
  "controller.vmiSerialization.cacheTTL",
  "monitoring.rdsMonitoring",
  "monitoring.serviceMonitor.forceEnable",
  "nameOverride",
  "node.logLevel",
  "sidecars.livenessProbe",
  "sidecars.snapshotter",
  "snapshotClass",
];
