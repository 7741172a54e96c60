import { assert, assertEquals } from "@std/assert";
import { Deadline, poll } from "../../src/runtime/deadline.ts";
import { labFolder } from "../lab/folder.ts";
import { whyNoMachines } from "../lab/machines/kernel.ts";
import { patient } from "../lab/machines/patience.ts";
import { Machine } from "../lab/machines/machine.ts";
import { fromFileUrl, project } from "../lab/project.ts";

const ignore = await whyNoMachines() !== undefined;

/** Whether a process is there and no zombie. */
async function isRunning(pid: number): Promise<boolean> {
  const stat = await Deno.readTextFile(`/proc/${pid}/stat`).catch(() => "");
  return stat !== "" && !/\) Z /.test(stat);
}

/** Starts a machine in a process of its own, which says the number of its QEMU. */
async function elsewhere(folder: string): Promise<{ child: Deno.ChildProcess; qemu: number }> {
  const script = `import { Machine } from "${new URL("tests/lab/machines/machine.ts", project)}";
    const machine = await Machine.start({ name: "left", folder: "${folder}" });
    console.log(machine.pid);
    setInterval(() => {}, 1000);`;
  const child = new Deno.Command(Deno.execPath(), {
    args: ["eval", "--quiet", `--config=${fromFileUrl(new URL("deno.json", project))}`, script],
    stdin: "null",
    stdout: "piped",
  }).spawn();
  const reader = child.stdout.pipeThrough(new TextDecoderStream()).getReader();
  const { value } = await reader.read();
  await reader.cancel();
  return { child, qemu: Number(value) };
}

Deno.test({
  name: "a machine ends with the process that started it, however that ends",
  ignore,
  async fn() {
    await using folder = await labFolder("vm");
    const { child, qemu } = await elsewhere(folder.path);
    assert(await isRunning(qemu));
    child.kill("SIGKILL");
    await child.status;
    using deadline = new Deadline(10_000, "the machine to end");
    await poll(async () => !await isRunning(qemu) || undefined, { signal: deadline.signal });
  },
});

Deno.test({
  name: "a program that hangs in a machine is reported, and the machine goes on answering and ends at once",
  ignore,
  async fn() {
    await using folder = await labFolder("vm");
    let qemu = 0;
    {
      await using machine = await Machine.start({ name: "hangs", folder: folder.path });
      qemu = machine.pid ?? 0;
      const late = await machine.guest.run("sleep", ["100"], { deadline: patient(500) }).catch((error) => error);
      assert(/did not end within/.test(String(late)), String(late));
      const process = await machine.start("sleeper", "sh", ["-c", "echo started; sleep 100"]);
      using deadline = new Deadline(patient(20_000), "the process to say so");
      await poll(() => process.find(/started/), { signal: deadline.signal });
      assertEquals((await process.state()).running, true);
      await process.kill("SIGKILL");
      await process.ended();
      await machine.guest.writeFile("/run/a file", "text");
      assertEquals(await machine.guest.readFile("/run/a file"), "text");
      assertEquals(await machine.guest.run("sh", ["-c", "cat; exit 3"], { stdin: "in" }), {
        code: 3,
        stdout: "in",
        stderr: "",
      });
    }
    assertEquals(await isRunning(qemu), false);
  },
});
