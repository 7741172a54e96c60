import { assert, assertEquals, assertInstanceOf, assertRejects, assertStringIncludes } from "@std/assert";
import { Commands, NotInstalled, Stuck } from "./command.ts";
import { poll } from "./deadline.ts";
import { Cancelled, TimedOut } from "./errors.ts";

const shell = (script: string, ...args: string[]) => ["-c", script, "sh", ...args];

function exists(pid: number): boolean {
  try {
    Deno.kill(pid, "SIGCONT");
    return true;
  } catch {
    return false;
  }
}

function pidIn(file: string): Promise<number> {
  return poll(async () => {
    const text = await Deno.readTextFile(file).catch(() => "");
    return text.endsWith("\n") ? Number(text) : undefined;
  }, { signal: AbortSignal.timeout(30_000), interval: 5 });
}

Deno.test("Commands.run() gives code and both outputs, and no standard input", async () => {
  const output = await new Commands(200).run("sh", shell("cat; printf täxt; echo bad >&2; exit 3"), { deadline: 5000 });
  assertEquals(output, { code: 3, stdout: "täxt", stderr: "bad\n" });
});

Deno.test("Commands.run() reads an output that is longer than a pipe holds, and keeps its beginning", async () => {
  const commands = new Commands(200);
  const script = shell("head -c 1000000 /dev/zero | tr '\\0' x; head -c 300000 /dev/zero >&2; exit 7");
  const { code, stdout, stderr } = await commands.run("sh", script, { deadline: 5000 });
  assertEquals([code, stdout, stderr.length], [7, "x".repeat(65_536), 65_536]);
  const { stdout: all } = await commands.run("sh", script, { deadline: 5000, keep: 2_000_000 });
  assertEquals(all.length, 1_000_000);
});

Deno.test("Commands.run() asks every program for the language that it can read", async () => {
  const commands = new Commands(200);
  for (const env of [undefined, { OTHER: "x" }]) {
    const { stdout } = await commands.run("sh", shell('printf %s "$LC_ALL$OTHER"'), { deadline: 5000, env });
    assertEquals(stdout, env ? "Cx" : "C");
  }
});

Deno.test("Commands.run() tells a program that is not installed from one that fails", async () => {
  await assertRejects(() => new Commands(200).run("no-such-program", [], { deadline: 5000 }), NotInstalled, "install");
});

Deno.test("Commands.run() ends a program at its deadline and says which one it was", async () => {
  const commands = new Commands(200);
  await assertRejects(() => commands.run("sleep", ["60"], { deadline: 50 }), TimedOut, "'sleep 60'");
  assertEquals([commands.running, commands.stuck], [0, 0]);
});

Deno.test("Commands.run() kills a program that ignores TERM", async () => {
  const file = await Deno.makeTempFile();
  const commands = new Commands(200);
  const script = shell('trap "" TERM; echo $$ >"$1"; while :; do sleep 0.05; done', file);
  await assertRejects(() => commands.run("sh", script, { deadline: 300 }), TimedOut);
  assertEquals(exists(await pidIn(file)), false);
  assertEquals([commands.running, commands.stuck], [0, 0]);
  await Deno.remove(file);
});

Deno.test("Commands.run() does not wait for a grandchild that holds the pipe, neither at the deadline nor after the end", async () => {
  const commands = new Commands(200);
  const file = await Deno.makeTempFile();
  const background = 'sleep 60 & echo $! >"$1"; echo begun; ';
  try {
    await assertRejects(() => commands.run("sh", shell(`${background} wait`, file), { deadline: 300 }), TimedOut);
    assertEquals(commands.running, 0);
    Deno.kill(await pidIn(file), "SIGKILL");
    const { code, stdout } = await commands.run("sh", shell(background, file), { deadline: 30_000 });
    assertEquals([code, stdout, commands.running], [0, "begun\n", 0]);
  } finally {
    Deno.kill(await pidIn(file), "SIGKILL");
    await Deno.remove(file);
  }
});

Deno.test("Commands.run() ends the program when the caller goes, with the caller's reason", async () => {
  const caller = new AbortController();
  const commands = new Commands(200);
  const running = commands.run("sleep", ["60"], { deadline: 60_000, signal: caller.signal });
  caller.abort();
  await assertRejects(() => running, Cancelled);
  await assertRejects(
    () => commands.run("touch", ["/nonexistent/x"], { deadline: 1, signal: caller.signal }),
    Cancelled,
  );
  assertEquals(commands.running, 0);
});

/** A filesystem that is frozen: whoever writes to it waits in the kernel and ignores KILL, as on a hanging session. */
async function frozen(work: (file: string) => Promise<void>, thaw: { now: () => Promise<void> }): Promise<void> {
  const folder = await Deno.makeTempDir();
  const commands = new Commands(200);
  const ok = async (program: string, ...args: string[]) => {
    const { code, stderr } = await commands.run(program, args, { deadline: 20_000 });
    assertEquals(code, 0, `${program} ${args.join(" ")}: ${stderr}`);
  };
  const image = `${folder}/image`, mount = `${folder}/mount`;
  await Deno.mkdir(mount);
  await ok("truncate", "-s", "16M", image);
  await ok("mkfs.ext4", "-q", image);
  await ok("mount", "-o", "loop", image, mount);
  let isFrozen = false;
  thaw.now = async () => {
    if (isFrozen) await ok("fsfreeze", "--unfreeze", mount);
    isFrozen = false;
  };
  try {
    await ok("fsfreeze", "--freeze", mount);
    isFrozen = true;
    await work(`${mount}/file`);
  } finally {
    await thaw.now();
    await ok("umount", mount);
    await Deno.remove(folder, { recursive: true });
  }
}

Deno.test({
  name: "Commands.run() leaves and counts a program that KILL cannot end, until it ends after all",
  ignore: Deno.uid() !== 0,
  async fn() {
    const thaw = { now: async () => {} };
    await frozen(async (file) => {
      const commands = new Commands(200);
      const error = await assertRejects(() => commands.run("touch", [file], { deadline: 100 }), Stuck, "SIGKILL");
      assertInstanceOf(error, Stuck);
      assertEquals([commands.stuck, commands.running], [1, 1]);
      assertStringIncludes((await commands.run("echo", ["others go on"], { deadline: 5000 })).stdout, "others go on");
      await thaw.now();
      await error.ended;
      assertEquals(commands.stuck, 0);
      assert(commands.running <= 1);
    }, thaw);
  },
});
