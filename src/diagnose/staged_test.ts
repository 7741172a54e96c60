import { assertEquals } from "@std/assert";
import { TestCluster } from "../../tests/nvme/cluster.ts";
import { TestNode } from "../../tests/nvme/node.ts";
import { run, whyNoStandIn } from "../../tests/nvme/stand_in.ts";
import { type Config, readConfig } from "../config_read.ts";
import { look } from "../staging/condition.ts";
import type { VolumeInput } from "../staging/volume.ts";
import { attachmentChecks } from "./attachment_checks.ts";
import { runChecks } from "./check.ts";
import { type NodeWorld, nodeWorld } from "./node_world.ts";
import { targetCheck, volumeChecks } from "./volume_checks.ts";

const ignore = await whyNoStandIn() !== undefined;
const { signal } = new AbortController();

function configOf(node: TestNode): Config {
  const request = readConfig(["diagnose", "--standalone"], {
    CSI_MANAGED_NQN_PREFIX: node.parts.prefix,
    RDS_CSI_PROC_ROOT: node.standIn.roots.proc,
    RDS_CSI_SYSFS_ROOT: node.standIn.roots.sysfs,
    RDS_CSI_DEV_ROOT: node.standIn.roots.dev,
  });
  if (request.kind !== "command") throw new Error(JSON.stringify(request));
  return request.config;
}

/** What is wrong with the volumes that a node really has mounted. */
async function wrong(node: TestNode, cluster: TestCluster): Promise<string[]> {
  const world: NodeWorld = {
    ...nodeWorld(configOf(node), { problems: [], version: "1" }),
    parts: () => node.parts,
    look: (signal) => look(node.parts, { signal }),
    attachments: () => cluster.attachmentsHere(),
  };
  const outcomes = await runChecks([...volumeChecks(world), targetCheck(world), ...attachmentChecks(world)], signal);
  return outcomes.flatMap(({ name, findings }) => findings.map(({ code }) => `${name}/${code}`))
    .filter((each) => !each.endsWith("/ok"));
}

Deno.test({
  name: "diagnose agrees with what stage and publish really leave on a node, and sees what somebody does to it",
  ignore,
  async fn() {
    await using node = await TestNode.start();
    const cluster = new TestCluster();
    const up = async (kind: "ext4" | "block", name: string): Promise<VolumeInput> => {
      const volume = await node.volume(kind);
      cluster.attach(volume, node.nqn(volume));
      await node.up(volume, name);
      return volume;
    };
    const [ext4, block] = [await up("ext4", "a"), await up("block", "b")];
    assertEquals(await wrong(node, cluster), []);

    await run("mount", "--bind", ext4.stagingPath, ext4.stagingPath);
    assertEquals(await wrong(node, cluster), ["mounts/mount-doubled"]);
    await run("umount", ext4.stagingPath);

    await node.setState(ext4, "connecting");
    assertEquals(await wrong(node, cluster), ["sessions/session-not-live"]);
    await node.setState(ext4, "live");

    await node.nvme("disconnect", "-n", node.nqn(block));
    assertEquals(await wrong(node, cluster), ["sessions/session-gone"]);
  },
});
