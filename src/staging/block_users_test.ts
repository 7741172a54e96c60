import { assertEquals } from "@std/assert";
import { Commands } from "../runtime/command.ts";
import { loopsOver } from "./block_users.ts";
import { stagingParts } from "./parts.ts";
import type { Traces } from "./uses.ts";

const traces: Traces = {
  volumeId: `pvc-${"a".repeat(28)}`,
  sessions: [],
  record: undefined,
  unusable: undefined,
  names: ["nvme0n1"],
  owns: () => false,
  isOurs: () => false,
};

Deno.test("loopsOver() is not held up by a loop device over a file that hangs, and asks for that file once", async () => {
  const folder = await Deno.makeTempDir();
  const backing = { loop0: "/mnt/dead-server/image", loop1: "/dev/nvme0n1" };
  for (const [name, file] of Object.entries(backing)) {
    await Deno.mkdir(`${folder}/block/${name}/loop`, { recursive: true });
    await Deno.writeTextFile(`${folder}/block/${name}/loop/backing_file`, `${file}\n`);
  }
  const roots = { proc: "/proc", sysfs: folder, dev: "/dev" };
  const parts = stagingParts({ commands: new Commands(), roots, prefix: "nqn.x:pvc-", recordsFolder: `${folder}/r` });
  const hanging = Promise.withResolvers<Deno.FileInfo>();
  const lstat = Deno.lstat;
  let asked = 0;
  try {
    Deno.lstat = (path) => path === backing.loop0 ? (asked++, hanging.promise) : lstat(path);
    const over = [{ name: "loop1", backing: "/dev/nvme0n1" }];
    assertEquals([await loopsOver(parts, traces), await loopsOver(parts, traces), asked], [over, over, 1]);
    hanging.reject(new Deno.errors.NotFound("at last"));
    await hanging.promise.catch(() => {});
    await new Promise((resolve) => setTimeout(resolve, 0));
    assertEquals([await loopsOver(parts, traces), asked], [over, 2]);
  } finally {
    Deno.lstat = lstat;
    await Deno.remove(folder, { recursive: true });
  }
});
