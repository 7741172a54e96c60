import { assertEquals } from "@std/assert";
import { RecordingCommands } from "../../tests/nvme/stand_in.ts";
import { prepareModule } from "./module.ts";
import { Sysfs } from "./sysfs.ts";

/** What was run for a kernel with these modules. */
async function prepared(modules: string[], load: boolean, code = 0): Promise<string[]> {
  const root = await Deno.makeTempDir();
  await Deno.mkdir(`${root}/module`);
  for (const name of modules) await Deno.mkdir(`${root}/module/${name}`);
  const commands = new RecordingCommands();
  commands.instead = () => ({ code, stdout: "", stderr: "modprobe: FATAL: Module nvme-tcp not found" });
  await prepareModule({ commands, sysfs: new Sysfs({ sysfs: root, dev: "/host/dev" }), load, deadline: 1000 });
  await Deno.remove(root, { recursive: true });
  return commands.started;
}

Deno.test("prepareModule() loads the module where it is missing and that is wanted, and nothing else", async () => {
  assertEquals(await prepared(["nvme_core"], true), ["modprobe nvme-tcp"]);
  assertEquals(await prepared(["nvme_core"], false), []);
  assertEquals(await prepared(["nvme_tcp"], true), []);
});

Deno.test("prepareModule() does not keep the node from serving when modprobe fails, or sysfs says nothing", async () => {
  assertEquals(await prepared([], true, 1), ["modprobe nvme-tcp"]);
  const commands = new RecordingCommands();
  const sysfs = new Sysfs({ sysfs: "/nonexistent", dev: "/host/dev" });
  await prepareModule({ commands, sysfs, load: true, deadline: 1000 });
  assertEquals(commands.started, []);
});
