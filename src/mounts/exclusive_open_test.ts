import { assert, assertEquals, assertRejects } from "@std/assert";
import { RecordingCommands, run, type StandIn, standIn, whyNoStandIn } from "../../tests/nvme/stand_in.ts";
import { Cancelled } from "../runtime/errors.ts";
import { whyNotIdle } from "./exclusive_open.ts";

const ignore = await whyNoStandIn() !== undefined;
const deadline = 20_000;

/** A loop device over a sparse file. */
class Disk implements AsyncDisposable {
  private constructor(readonly path: string, readonly file: string) {}

  static async make(standIn: StandIn, size: string): Promise<Disk> {
    const file = `${standIn.folder}/${crypto.randomUUID()}.img`;
    await run("truncate", "-s", size, file);
    return new Disk((await run("losetup", "--find", "--show", file)).trim(), file);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await run("losetup", "--detach", this.path);
  }
}

Deno.test({
  name: "whyNotIdle() finds a device idle whatever is on it, and however large it is, and writes nothing",
  ignore,
  async fn() {
    await using machine = await standIn();
    const commands = new RecordingCommands();
    for (const maker of [undefined, "mkfs.ext4", "mkfs.xfs", "partitions"]) {
      await using disk = await Disk.make(machine, "320M");
      // A DOS partition table with one partition of type 0x83, 2048 sectors from sector 2048.
      const table = new Uint8Array(512);
      table.set([0, 0, 0, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 8, 0, 0], 446);
      table.set([0x55, 0xaa], 510);
      if (maker === "partitions") await Deno.writeFile(disk.file, table, { create: false });
      else if (maker) await run(maker, "-q", disk.path);
      const before = await run("sha256sum", disk.file);
      assertEquals(await whyNotIdle(disk.path, { commands, deadline }), undefined, maker);
      assertEquals(await run("sha256sum", disk.file), before, maker);
    }
    for (const size of ["1M", "16T", "20T"]) {
      await using disk = await Disk.make(machine, size);
      assertEquals(await whyNotIdle(disk.path, { commands, deadline }), undefined, size);
      assert(((await Deno.stat(disk.file)).blocks ?? 0) < 16, size);
    }
  },
});

Deno.test({
  name: "whyNotIdle() finds a mount, also one in a mount namespace that nobody sees",
  ignore,
  async fn() {
    await using machine = await standIn();
    const commands = new RecordingCommands();
    await using disk = await Disk.make(machine, "100M");
    await run("mkfs.ext4", "-q", disk.path);
    const folder = `${machine.folder}/folder`;
    await Deno.mkdir(folder);
    await run("mount", disk.path, folder);
    const args = ["--mount", "--propagation", "private", "sh", "-c", "echo ready; exec sleep 600"];
    await using hidden = new Deno.Command("unshare", { args, stdout: "piped" }).spawn();
    const reader = hidden.stdout.getReader();
    await reader.read();
    assertEquals(await whyNotIdle(disk.path, { commands, deadline }), `${disk.path} is mounted`);
    await run("umount", folder);
    const why = await whyNotIdle(disk.path, { commands, deadline });
    assertEquals(why, `${disk.path} is apparently in use by the system`);
    hidden.kill("SIGKILL");
    await hidden.status;
    await reader.cancel();
    assertEquals(await whyNotIdle(disk.path, { commands, deadline }), undefined);
  },
});

Deno.test("whyNotIdle() calls nothing idle when the check itself cannot be made", async () => {
  const nothing = new RecordingCommands({ PATH: "/nonexistent" });
  assert((await whyNotIdle("/dev/x", { commands: nothing, deadline }))?.includes("not installed"));
  const commands = new RecordingCommands();
  commands.instead = () => ({ code: 1, stdout: "", stderr: "mke2fs: Input/output error" });
  assertEquals(await whyNotIdle("/dev/x", { commands, deadline }), "mke2fs: Input/output error");
  commands.instead = () => ({ code: 134, stdout: "", stderr: "" });
  assert(await whyNotIdle("/dev/x", { commands, deadline }));
  const cancelled = AbortSignal.abort();
  commands.instead = () => undefined;
  await assertRejects(() => whyNotIdle("/dev/x", { commands, deadline, signal: cancelled }), Cancelled);
});

Deno.test("whyNotIdle() calls nothing idle that does not answer in time", async () => {
  const folder = await Deno.makeTempDir();
  await Deno.writeTextFile(`${folder}/mke2fs`, "#!/bin/sh\nexec sleep 600\n", { mode: 0o755 });
  const commands = new RecordingCommands({ PATH: `${folder}:${Deno.env.get("PATH")}` });
  const why = await whyNotIdle("/dev/x", { commands, deadline: 100 });
  assert(why?.includes("no answer within"), why);
  await Deno.remove(folder, { recursive: true });
});
