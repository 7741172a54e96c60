import { assert, assertEquals, assertRejects } from "@std/assert";
import type { TestNode } from "../../tests/nvme/node.ts";
import { onNode } from "../../tests/nvme/on_node.ts";
import { Unreachable } from "../runtime/errors.ts";
import { mend } from "./recovery.ts";
import { pinned } from "./same_device.ts";
import { stage } from "./stage.ts";
import type { VolumeInput } from "./volume.ts";

/** The paths of the devices that this process has open. */
function open(node: TestNode): string[] {
  const files = Array.from(Deno.readDirSync("/proc/self/fd"), ({ name }) => `/proc/self/fd/${name}`);
  return files.map(linked).filter((path) => path.startsWith(`${node.standIn.roots.dev}/`));
}

function linked(file: string): string {
  try {
    return Deno.readLinkSync(file);
  } catch {
    return ""; // What the folder was read with.
  }
}

async function deviceOf(node: TestNode, volume: VolumeInput) {
  return await node.parts.sessions.device(node.nqn(volume));
}

onNode(
  "stage() and mend() hold the device open while mkfs and mount run, and no longer, so that no other gets its name",
  async (node) => {
    const volume = await node.volume("ext4");
    const seen: string[] = [];
    node.commands.instead = (program) => {
      if (["mkfs.ext4", "mount"].includes(program)) seen.push(`${program} ${open(node)}`);
      return undefined;
    };
    await stage(node.parts, volume);
    const { path } = await deviceOf(node, volume);
    assertEquals([seen, open(node)], [[`mkfs.ext4 ${path}`, `mount ${path}`], []]);
    seen.length = 0;
    await node.nvme("disconnect", "-n", node.nqn(volume));
    assert(await mend(node.parts, volume.volumeId));
    assertEquals([seen, open(node)], [[`mount ${(await deviceOf(node, volume)).path}`], []]);
  },
);

onNode(
  "pinned() does nothing with a device that is not the same any more, and lets go of it when the work fails",
  async (node) => {
    const volume = await node.volume("block");
    await stage(node.parts, volume);
    const device = await deviceOf(node, volume);
    let worked = 0;
    const work = () => Promise.resolve(worked++);
    for (const change of [{ majorMinor: "259:77" }, { path: `${device.path}0` }, { size: 1 }]) {
      await assertRejects(() => pinned(node.parts, { ...device, ...change }, work, {}), Unreachable, "changed");
    }
    await node.setState(volume, "connecting");
    await assertRejects(() => pinned(node.parts, device, work, {}), Unreachable, "not live");
    await node.setState(volume, "live");
    await assertRejects(() => pinned(node.parts, device, () => Promise.reject(new Error("mkfs")), {}), Error, "mkfs");
    assertEquals([worked, open(node)], [0, []]);
    await pinned(node.parts, device, work, {});
    assertEquals([worked, open(node)], [1, []]);
  },
);
