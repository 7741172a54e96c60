import type { Finding, Meaning } from "./check.ts";

/** What can be found on a node. */
export const ofNode = {
  "setting-wrong": {
    status: "error",
    when: "a setting in the environment cannot be used; the driver does not start with it",
    remedy: "put the setting right in the chart's values (or the DaemonSet) and let the pod start anew",
  },
  "tree-missing": {
    status: "error",
    when: "the host's /proc, /sys or /dev, or the kubelet's folder, is not where the settings say",
    remedy: "mount it there (the chart does), or name the place where it is",
  },
  "module-missing": {
    status: "error",
    when: "the kernel has no NVMe/TCP",
    remedy:
      "on the host: 'modprobe nvme-tcp', and for every start 'echo nvme-tcp > /etc/modules-load.d/nvme-tcp.conf'; or " +
      "let the driver load it (--load-modules)",
  },
  "tool-missing": {
    status: "error",
    when: "a program that the driver runs is not there, or does not start",
    remedy: "use the driver's image, or install the package that has the program",
  },
  "prefix-missing": {
    status: "error",
    when: "CSI_MANAGED_NQN_PREFIX is not set, or cannot be used",
    remedy: "set it to what the NQNs of this cluster's volumes begin with, the same on controller and nodes",
  },
  "prefix-differs": {
    status: "error",
    when: "an attachment of this driver names an NQN outside of this node's prefix",
    remedy: "set CSI_MANAGED_NQN_PREFIX to the same value on controller and nodes",
  },
  "host-nqn-unusable": {
    status: "error",
    when: "a source of the node's NVMe identity has one that cannot be used",
    remedy: "repair /etc/nvme/hostnqn and hostid on the host ('nvme gen-hostnqn' makes an NQN), or set --host-nqn",
  },
  "host-nqn-mixed": {
    status: "warning",
    when:
      "sessions of this node were made under several host NQNs, or one NQN has several host ids, which Linux refuses from 6.5 on",
    remedy:
      "give the machine one identity (/etc/nvme/hostnqn and hostid); what was connected as another goes when the node is " +
      "drained and restarted",
  },
  "host-nqn-duplicate": {
    status: "error",
    when: "another node of the cluster connects with this node's host NQN",
    remedy: "give each machine its own /etc/nvme/hostnqn and hostid ('nvme gen-hostnqn'), one node at a time, drained",
  },
  "socket-silent": {
    status: "error",
    when: "nobody answers on the CSI socket",
    remedy:
      "look at the driver's pod: 'kubectl describe pod', its log, and whether --endpoint is the socket that it serves",
  },
  "socket-foreign": {
    status: "error",
    when: "another driver, or another version of this one, answers on the CSI socket",
    remedy:
      "end the other one; each driver needs a socket of its own (--endpoint) and a name of its own (--driver-name)",
  },
  "not-registered": {
    status: "error",
    when: "the kubelet does not have the driver on its list",
    remedy: "look at the log of the kubelet, whether --registration-dir is its folder plugins_registry, or, where " +
      "node-driver-registrar is used, at the log of that container",
  },
  "agent-silent": {
    status: "error",
    when: "the driver on this machine does not answer at /metrics",
    remedy: "look at the driver's pod and its log; name the address that it serves with --metrics-address",
  },
  "not-ready": {
    status: "warning",
    when: "the driver on this node says that it is not ready",
    remedy: "wait; if it stays so, its log says why",
  },
  "breaker-open": {
    status: "warning",
    when: "circuit breakers are open: volumes whose filesystem failed three times in a row are not staged for now",
    remedy: "the events of the claims say what failed. They close by themselves; to try at once: " +
      "'kubectl annotate --overwrite pv <pv> rds.csi.srvlab.io/reset-circuit-breaker=true'",
  },
  "child-stuck": {
    status: "error",
    when: "programs that the driver ran could not be ended: they hang in the kernel, and keep their volumes locked",
    remedy:
      "bring the storage server back, or let the dead session go (see the finding session-not-live); they end then",
  },
  "session-not-live": {
    status: "error",
    when: "an NVMe session is not live: I/O of its volume waits",
    remedy:
      "look at the network to the server and whether it exports the volume. It comes back by itself; touch nothing of it " +
      'meanwhile. One that is dead for good: docs/guides/troubleshooting.md, "A session that never comes back"',
  },
  "session-without-volume": {
    status: "warning",
    when:
      "there is an NVMe session of a volume that the node has no record of and that Kubernetes has not attached here",
    remedy:
      "if nothing uses it, the driver ends it by itself within a minute or two of its start; else end what uses it, then " +
      "'nvme disconnect -n <nqn>'",
  },
  "session-gone": {
    status: "error",
    when: "a volume is staged here and the kernel has no NVMe session of it any more: its I/O fails",
    remedy: "look at the network to the server and whether it exports the volume; then restart the pods that have it",
  },
  "generation-old": {
    status: "error",
    when:
      "an attachment was moved to another generation of its export, as after a fence, and this node still has the old session",
    remedy: "delete the volume's pods on this node: the old session is let go then, and what was not synced is lost",
  },
  "attached-not-connected": {
    status: "warning",
    when: "Kubernetes has a volume attached here and there is no session of it",
    remedy: "none if a pod is just starting or ending; else look at the events of its pods and claims",
  },
  "connected-not-attached": {
    status: "warning",
    when: "a volume is connected here and Kubernetes has not attached it to this node",
    remedy:
      "none if a pod has just ended; else look what uses it: the driver ends a session by itself only when nothing does",
  },
  "node-unknown": {
    status: "error",
    when: "Kubernetes has no Node of this name",
    remedy: "set --node-id to the Node's name as 'kubectl get nodes' shows it; nothing is cleaned until it is",
  },
  "mount-stale": {
    status: "error",
    when: "a mount, or a block volume's device node, is of a device that is gone or has another number now",
    remedy: "restart the pods that have the volume",
  },
  "mount-doubled": {
    status: "warning",
    when: "one device is mounted several times over at one path",
    remedy: "end the volume's pods on this node; what is still mounted then can be unmounted",
  },
  "mount-storm": {
    status: "error",
    when: "a device has a hundred mounts or more: no more are made",
    remedy: "find out what mounts it again and again ('findmnt -o TARGET,MAJ:MIN'), and unmount what no pod needs",
  },
  "record-unusable": {
    status: "error",
    when: "the note of a staged volume cannot be read or understood",
    remedy: "when no pod on this node uses the volume, remove the file",
  },
  "record-unfinished": {
    status: "warning",
    when: "something was begun with a volume and not ended: a mkfs, an unstaging, a mount anew",
    remedy:
      "none: it is finished by the next try; if it stays, the events of the claim and the log say what is in the way",
  },
  "record-differs": {
    status: "warning",
    when: "what is noted of a volume is not what sysfs and mountinfo show",
    remedy:
      "restart the pods that have the volume on this node, and report it with 'diagnose bundle' if it comes again",
  },
  "filesystem-stopped": {
    status: "error",
    when: "the kernel lets nothing be written to a filesystem after errors",
    remedy:
      "look at dmesg; end all pods of this node that have the volume: it is mounted anew before the next one gets it",
  },
  "target-silent": {
    status: "error",
    when: "a storage server's NVMe/TCP port does not answer from this node",
    remedy:
      "look at the network, the firewall, nvmeAddress of the StorageClass, and whether RouterOS has any export on",
  },
} as const satisfies Readonly<Record<string, Meaning>>;

/** What can be found where the controller runs. */
export const ofController = {
  "routeros-silent": {
    status: "error",
    when: "RouterOS cannot be reached, or does not let the user in",
    remedy: "check --rds-address, --rds-port, the network, '/ip/service' (ssh), and the user's key ('/user/ssh-keys')",
  },
  "host-key-refused": {
    status: "error",
    when: "the server's host key is not the pinned one, or none is pinned",
    remedy: "compare the fingerprint on RouterOS itself, then put the key into the Secret (rds-host-key)",
  },
  "host-key-unchecked": {
    status: "warning",
    when: "--rds-insecure-skip-verify is on: whoever is in between can read and delete everything",
    remedy: "pin the host key (Secret key rds-host-key) and take the setting away",
  },
  "login-unusable": {
    status: "error",
    when: "the private key cannot be read or used",
    remedy: "put an RSA or Ed25519 key without a passphrase into the Secret (rds-private-key)",
  },
  "routeros-old": {
    status: "error",
    when: "RouterOS is older than 7.21",
    remedy: "upgrade RouterOS: before 7.21 an exported disk cannot have an NQN of its own",
  },
  "routeros-warning": {
    status: "warning",
    when: "this version of RouterOS has known holes, or lacks the package rose-storage",
    remedy: "upgrade RouterOS, or install the package",
  },
  "policy-missing": {
    status: "error",
    when: "the RouterOS user may not do what the driver needs",
    remedy: "give the user's group the policies ssh, read and write ('/user/group')",
  },
  "pool-missing": {
    status: "error",
    when: "RouterOS shows no disk mounted at the first part of --rds-volume-base-path",
    remedy: "name the pool's mount point ('/disk print') as the first part of --rds-volume-base-path",
  },
  "pool-full": {
    status: "error",
    when: "less than a twentieth of the pool is free: volumes may soon fail to write",
    remedy: "free space on the pool, or add disks to it",
  },
  "pool-promised": {
    status: "warning",
    when: "no volume of 1 GiB fits any more, by what is promised already, --capacity-ratio and --capacity-reserve",
    remedy:
      "delete volumes, add disks, or set --capacity-ratio knowing that the pool can then run full under its volumes",
  },
  "volume-missing": {
    status: "error",
    when: "a PersistentVolume names a volume that RouterOS does not have",
    remedy: "look on RouterOS ('/disk print detail') whether it was removed by hand; its file may still be there",
  },
  "volume-not-exported": {
    status: "error",
    when: "a volume that a PersistentVolume names is not exported",
    remedy: "if it was switched off by hand: '/disk/set [find where slot=\"<id>\"] nvme-tcp-export=yes'",
  },
  "nqn-differs": {
    status: "error",
    when: "an attachment names another NQN than the export has",
    remedy: "end the volume's pods on that node; they get the present NQN when they are attached anew",
  },
  "mounted-by-routeros": {
    status: "warning",
    when: "RouterOS itself mounts the file system inside a volume (mount-filesystem=yes)",
    remedy: "the driver sets it to no when the volume is next attached and nobody holds it: end its pods once",
  },
  "volume-orphaned": {
    status: "warning",
    when: "a disk or a file on RouterOS belongs to no PersistentVolume",
    remedy: "see --orphans, or remove it by hand if nobody needs it",
  },
  "no-leader": {
    status: "warning",
    when: "no replica of the controller leads: migrations and orphans are looked after by nobody",
    remedy: "look at the controller's pods and their logs, and at the Lease rds-csi-controller",
  },
  "fence-owed": {
    status: "warning",
    when: "a node was let go from a volume and may still write; it is cut off when the others have left",
    remedy: "make sure that the machine named in the PV's annotations is off",
  },
  "controller-lost": {
    status: "error",
    when: "the controller on this machine has no connection to RouterOS, or has not heard of Kubernetes for over 90 s",
    remedy: "see the other findings, and the controller's log",
  },
} as const satisfies Readonly<Record<string, Meaning>>;

const all = { ...ofNode, ...ofController };

export type Code = keyof typeof all;

/** A finding, with the status and the remedy that its code has. @param remedy where one is known that is more exact */
export function found(code: Code, detail: string, remedy: string = all[code].remedy): Finding {
  return { status: all[code].status, code, detail, remedy };
}
