import { assert, assertEquals, assertRejects } from "@std/assert";
import type { TestNode } from "../../tests/nvme/node.ts";
import { onNode } from "../../tests/nvme/on_node.ts";
import { run } from "../../tests/nvme/stand_in.ts";
import { deviceNodeAt } from "../mounts/device_node.ts";
import { FailedPrecondition } from "../runtime/errors.ts";
import { look, problemsOf } from "./condition.ts";
import { publish, type PublishInput } from "./publish.ts";
import { mend } from "./recovery.ts";
import { stage } from "./stage.ts";
import { unstage } from "./unstage.ts";
import type { VolumeInput } from "./volume.ts";

async function number(node: TestNode, volume: VolumeInput): Promise<string> {
  return (await node.parts.sessions.device(node.nqn(volume))).majorMinor;
}

interface AfterReboot {
  /** It was published when the machine went down. */
  block: PublishInput;
  /** Connected since; its device has the number of the node that is still on disk. */
  other: VolumeInput;
  reboot: () => Promise<void>;
}

/** A node whose machine had a block volume when it went down. */
async function afterReboot(node: TestNode): Promise<AfterReboot> {
  const [volume, other] = [await node.volume("block"), await node.volume("block")];
  const block = await node.up(volume, "disk");
  const reboot = async () => {
    const path = node.path(`records/${volume.volumeId}.json`);
    const written = JSON.parse(await Deno.readTextFile(path));
    assert(written.boot, "which start of the machine it is of is noted");
    await Deno.writeTextFile(path, JSON.stringify({ ...written, boot: "an earlier one" }));
  };
  await node.nvme("disconnect", "-n", node.nqn(volume));
  await node.nvme("connect", "-t", "tcp", "-a", "127.0.0.1", "-s", String(node.server.port), "-n", node.nqn(other));
  await Deno.remove(block.targetPath);
  await run("mknod", block.targetPath, "b", ...(await number(node, other)).split(":"));
  return { block, other, reboot };
}

onNode(
  "after a reboot nothing is told of a block volume or mended, until the kubelet stages it and has its node made anew",
  async (node) => {
    const { block, reboot } = await afterReboot(node);
    await reboot();
    const sight = (await look(node.parts)).sights.get(block.volumeId);
    assertEquals(sight && problemsOf(sight), []);
    assertEquals([await mend(node.parts, block.volumeId), await node.sessions(block)], [undefined, 0]);
    await stage(node.parts, block);
    await publish(node.parts, block);
    assertEquals(await deviceNodeAt(block.targetPath), await number(node, block));
    assertEquals((await node.parts.records.read(block.volumeId))?.targets, [block.targetPath]);
  },
);

onNode(
  "stage() is refused a number that another's device node has, unless that is of before a reboot: it is removed then",
  async (node) => {
    const { block, other, reboot } = await afterReboot(node);
    await assertRejects(() => stage(node.parts, other), FailedPrecondition, block.targetPath);
    await reboot();
    await stage(node.parts, other);
    assertEquals(await deviceNodeAt(block.targetPath), undefined);
  },
);

onNode("unstage() after a reboot is not kept by the device node of then, and takes it away", async (node) => {
  const { block, reboot } = await afterReboot(node);
  await reboot();
  await unstage(node.parts, block);
  assertEquals(await node.parts.records.read(block.volumeId), undefined);
  assertEquals(await deviceNodeAt(block.targetPath), undefined);
});
