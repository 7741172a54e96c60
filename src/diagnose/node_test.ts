import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { Node } from "../../proto/gen/csi_pb.ts";
import { connect } from "../csi/rpc.ts";
import { runChecks } from "./check.ts";
import { HealthyNode, idOf, nqnOf, prefix } from "../../tests/diagnose/healthy_node.ts";
import { ofNode } from "./meanings.ts";
import { nodeChecks } from "./node_checks.ts";
import { tools } from "./tools.ts";
import manifest from "../../deno.json" with { type: "json" };

/** What is wrong on the node: check and code of every finding that is not well. */
async function wrongOn(node: HealthyNode): Promise<{ code: string; detail: string; remedy: string }[]> {
  const outcomes = await runChecks(nodeChecks(node.world()), new AbortController().signal);
  return outcomes.flatMap(({ name, findings }) =>
    findings.filter(({ status }) => status !== "ok")
      .map(({ code, detail, remedy = "" }) => ({ code: `${name}/${code}`, detail, remedy }))
  );
}

Deno.test("diagnose finds nothing on a node where nothing is wrong, and says of each check what it saw", async () => {
  await using node = await HealthyNode.start();
  assertEquals(await wrongOn(node), []);
  const outcomes = await runChecks(nodeChecks(node.world()), new AbortController().signal);
  assert(outcomes.every(({ findings }) => findings.length > 0));
});

/** Every path below a folder with what it holds and when it was written. */
async function contents(folder: string): Promise<string[]> {
  const found: string[] = [];
  for await (const { name, isDirectory, isFile } of Deno.readDir(folder)) {
    const path = `${folder}/${name}`;
    if (isDirectory) found.push(path, ...await contents(path));
    else if (isFile) found.push(`${path} ${(await Deno.stat(path)).mtime?.getTime()} ${await Deno.readTextFile(path)}`);
  }
  return found.sort();
}

Deno.test("diagnose changes nothing, and runs programs only so that they say their version", async () => {
  await using node = await HealthyNode.start();
  await node.put("sys/class/nvme/nvme1/state", "connecting");
  await node.session(3);
  await Deno.remove(`${node.folder}/etc/hostnqn`);
  const before = await contents(node.folder);
  await wrongOn(node);
  assertEquals(await contents(node.folder), before);
  const harmless = tools.map(({ program, args }) => [program, ...args].join(" "));
  assertEquals(node.commands.started.filter((each) => !harmless.includes(each)), []);
});

Deno.test("diagnose looks for every program that the node may run", () => {
  assertEquals(tools.map(({ program }) => program).sort(), [...manifest.permissions.node.run].sort());
});

/** One thing that goes wrong on a node. */
interface Fault {
  name: string;
  plant(node: HealthyNode): Promise<unknown> | void;
  /** Check and code of all that is to be found, in order. */
  codes: string[];
  /** What the first finding names. */
  names: string[];
  /** What somebody is to do about it. */
  remedy: string;
}

const faults: Fault[] = [
  {
    name: "a setting that cannot be used",
    plant: (node) => void (node.env.RDS_CSI_DRIVER_NAME = "not a name!"),
    codes: ["settings/setting-wrong"],
    names: ["RDS_CSI_DRIVER_NAME='not a name!'"],
    remedy: "chart's values",
  },
  {
    name: "a managed prefix that would match foreign volumes",
    plant: (node) => void (node.env.CSI_MANAGED_NQN_PREFIX = "nqn.2000-02.com.mikrotik:nixos-"),
    codes: [
      ...["settings/setting-wrong", "settings/prefix-missing"],
      ...["sessions", "mounts", "filesystems", "records", "targets", "attachments"].map((name) => `${name}/not-known`),
    ],
    names: ["nixos-", "diskless machines"],
    remedy: "chart's values",
  },
  {
    name: "the host's /proc, which is not mounted",
    plant: (node) => void (node.env.RDS_CSI_PROC_ROOT = `${node.folder}/nothing`),
    codes: [
      "trees/tree-missing",
      ...["sessions", "mounts", "filesystems", "records", "targets", "attachments"].map((name) => `${name}/not-known`),
    ],
    names: ["/nothing/1/mountinfo"],
    remedy: "mount --rbind --make-rslave /proc",
  },
  {
    name: "a kernel without NVMe/TCP",
    plant: (node) => Deno.remove(`${node.folder}/sys/module/nvme_tcp`),
    codes: ["kernel/module-missing"],
    names: ["Linux 6.1.0-test", "nvme-tcp"],
    remedy: "modprobe nvme-tcp",
  },
  {
    name: "a program that is not there",
    plant: (node) => void node.commands.missing.add("mkfs.xfs"),
    codes: ["tools/tool-missing"],
    names: ["mkfs.xfs"],
    remedy: "driver's image",
  },
  {
    name: "a hostnqn that cannot be used",
    async plant(node) {
      await node.endSession(2);
      await node.endSession(1);
      await node.put("etc/hostnqn", "my machine");
      for (const id of await node.records.volumeIds()) await node.records.remove(id);
      await node.unmount(node.stagingPath(1));
      for (const number of [1, 2]) node.detach(number);
    },
    codes: ["host-nqn/host-nqn-unusable", "host-nqn-duplicates/not-known"],
    names: ["etc/hostnqn"],
    remedy: "nvme gen-hostnqn",
  },
  {
    name: "volumes that are connected as two hosts",
    plant: (node) => node.session(2, { host: "nqn.2014-08.org.nvmexpress:uuid:00000000-0000-0000-0000-000000000001" }),
    codes: ["host-nqn/host-nqn-mixed"],
    names: ["uuid:7d444840", "uuid:00000000"],
    remedy: "one identity",
  },
  {
    name: "another node with this node's host NQN",
    async plant(node) {
      node.metrics.hostNqnDuplicate.set(1);
      const { claimName } = await import("../kube/host_claim.ts");
      const name = claimName("nqn.2014-08.org.nvmexpress:uuid:7d444840-9dc0-11d1-b245-5ffdce74fad2");
      const path = `/apis/coordination.k8s.io/v1/namespaces/rds-csi/leases/${name}`;
      node.objects.set(path, { metadata: { name }, spec: { holderIdentity: "node-7" } });
    },
    codes: ["host-nqn-duplicates/host-nqn-duplicate"],
    names: ["node-7"],
    remedy: "its own /etc/nvme/hostnqn",
  },
  {
    name: "a driver that does not run",
    plant: (node) => node.endDriver(),
    codes: [
      "socket/socket-silent",
      "registration/not-registered",
      "agent/agent-silent",
      "breakers/not-known",
      "children/not-known",
      "targets/target-silent",
    ],
    names: ["csi.sock"],
    remedy: "kubectl describe pod",
  },
  {
    name: "another driver on the socket",
    plant: (node) => void (node.env.RDS_CSI_DRIVER_NAME = "other.example.com"),
    codes: [
      "socket/socket-foreign",
      "attachments/connected-not-attached",
      "attachments/connected-not-attached",
    ],
    names: ["rds.csi.srvlab.io 1.2.3 answers", "not other.example.com"],
    remedy: "a socket of its own",
  },
  {
    name: "a kubelet that refuses the driver",
    plant: (node) => node.metrics.registered.set(0),
    codes: ["registration/not-registered"],
    names: ["the kubelet"],
    remedy: "--registration-dir",
  },
  {
    name: "a driver that is not ready",
    plant: (node) => void (node.ready = false),
    codes: ["agent/not-ready"],
    names: ["1.2.3"],
    remedy: "its log says why",
  },
  {
    name: "open circuit breakers",
    plant: (node) => void (node.measured.breakersOpen = 2),
    codes: ["breakers/breaker-open"],
    names: ["2 open"],
    remedy: "reset-circuit-breaker=true",
  },
  {
    name: "a program that hangs in the kernel",
    plant: (node) => void (node.measured.commandsStuck = 1),
    codes: ["children/child-stuck"],
    names: ["1 could not be ended"],
    remedy: "let the dead session go",
  },
  {
    name: "a session that is not live",
    plant: (node) => node.put("sys/class/nvme/nvme1/state", "connecting"),
    codes: ["sessions/session-not-live"],
    names: [idOf(1), nqnOf(1), "nvme1 connecting"],
    remedy: "touch nothing of it",
  },
  {
    name: "a session that the kernel gave up under a mount",
    plant: (node) => node.endSession(1),
    codes: ["sessions/session-gone", "mounts/mount-stale"],
    names: [idOf(1), nqnOf(1)],
    remedy: "restart the pods",
  },
  {
    name: "a session without a volume",
    plant: (node) => node.session(3),
    codes: ["attachments/session-without-volume"],
    names: [nqnOf(3), idOf(3), "used by nobody"],
    remedy: "nvme disconnect",
  },
  {
    name: "a session without a volume that somebody has mounted",
    async plant(node) {
      await node.session(3);
      await node.mount("259:3", "/mnt/by-hand");
    },
    codes: ["attachments/session-without-volume"],
    names: [nqnOf(3), "a mount at /mnt/by-hand"],
    remedy: "end what uses it",
  },
  {
    name: "an attached volume that is not connected",
    plant: (node) => node.attach(4),
    codes: ["attachments/attached-not-connected"],
    names: [idOf(4)],
    remedy: "events of its pods",
  },
  {
    name: "a connected volume that is not attached",
    plant: (node) => node.detach(2),
    codes: ["attachments/connected-not-attached"],
    names: [idOf(2), nqnOf(2)],
    remedy: "look what uses it",
  },
  {
    name: "a volume that was fenced while this node had it",
    plant: (node) => node.attach(2, `${nqnOf(2)}.g1`),
    codes: ["attachments/generation-old"],
    names: [idOf(2), `${nqnOf(2)}.g1`],
    remedy: "delete the volume's pods",
  },
  {
    name: "a controller with another prefix",
    plant: (node) => node.attach(2, nqnOf(2).replace("mikrotik", "example")),
    codes: ["attachments/prefix-differs"],
    names: [idOf(2), prefix],
    remedy: "same value on controller and nodes",
  },
  {
    name: "a node that Kubernetes does not know",
    plant: (node) => void node.objects.delete("/api/v1/nodes/node-1"),
    codes: ["node/node-unknown"],
    names: ["node-1"],
    remedy: "--node-id",
  },
  {
    name: "a device that came back under another number",
    async plant(node) {
      await node.put("sys/class/nvme-subsystem/nvme-subsys1/nvme1n1/dev", "259:9");
    },
    codes: ["mounts/mount-stale", "records/record-differs"],
    names: [idOf(1), "259:1", "259:9"],
    remedy: "restart the pods",
  },
  {
    name: "mounts over one another",
    plant: (node) => node.mount("259:1", node.stagingPath(1)),
    codes: ["mounts/mount-doubled"],
    names: [idOf(1), "2 times"],
    remedy: "end the volume's pods",
  },
  {
    name: "a hundred mounts of a device",
    async plant(node) {
      for (let number = 0; number < 100; number++) await node.mount("259:1", `/mnt/${number}`);
    },
    codes: ["mounts/mount-storm"],
    names: [idOf(1), "101 mounts"],
    remedy: "findmnt",
  },
  {
    name: "a filesystem that the kernel has stopped",
    async plant(node) {
      await node.unmount(node.stagingPath(1));
      await node.mount("259:1", node.stagingPath(1), "ro,emergency_ro");
    },
    codes: ["filesystems/filesystem-stopped"],
    names: [idOf(1)],
    remedy: "dmesg",
  },
  {
    name: "a record that cannot be understood",
    plant: (node) => node.put(`plugin/volumes/${idOf(1)}.json`, "{ half of"),
    codes: ["records/record-unusable"],
    names: [`${idOf(1)}.json`],
    remedy: "remove the file",
  },
  {
    name: "a filesystem that was being made when the driver ended",
    plant: (node) => node.records.write({ ...node.recordOf(1, "filesystem"), mkfs: nqnOf(1) }),
    codes: ["records/record-unfinished"],
    names: [idOf(1), "being made"],
    remedy: "next try",
  },
  {
    name: "a staged filesystem that is not mounted",
    plant: (node) => node.unmount(node.stagingPath(1)),
    codes: ["records/record-differs"],
    names: [idOf(1), "nothing is mounted"],
    remedy: "diagnose bundle",
  },
  {
    name: "a storage server whose port does not answer",
    plant: (node) =>
      node.records.write({
        ...node.recordOf(1, "filesystem"),
        target: { nqn: nqnOf(1), address: "127.0.0.1", port: 1, ctrlLossTmo: -1, reconnectDelay: 5, keepAliveTmo: 0 },
      }),
    codes: ["targets/target-silent"],
    names: ["127.0.0.1:1"],
    remedy: "nvmeAddress",
  },
];

for (const { name, plant, codes, names, remedy } of faults) {
  Deno.test(`diagnose finds and names ${name}, with what to do about it, and nothing else`, async () => {
    await using node = await HealthyNode.start();
    await plant(node);
    const found = await wrongOn(node);
    assertEquals(found.map(({ code }) => code), codes, JSON.stringify(found, undefined, 1));
    for (const part of names) assertStringIncludes(found[0]?.detail ?? "", part);
    assertStringIncludes(found[0]?.remedy ?? "", remedy);
  });
}

Deno.test("diagnose: every kind of finding of a node is planted here", () => {
  const planted = new Set(faults.flatMap(({ codes }) => codes.map((code) => code.replace(/^.*\//, ""))));
  assertEquals(Object.keys(ofNode).filter((code) => !planted.has(code)), []);
});

Deno.test("diagnose believes that the kubelet has a driver that a sidecar registers, once it has asked who it is", async () => {
  await using node = await HealthyNode.start();
  node.metrics.registered.remove();
  assertEquals((await wrongOn(node)).map(({ code }) => code), ["registration/not-registered"]);
  using kubelet = connect(Node, `${node.folder}/plugin/csi.sock`);
  await kubelet.nodeGetInfo({});
  assertEquals(await wrongOn(node), []);
});
