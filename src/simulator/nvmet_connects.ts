import { log } from "../runtime/log.ts";
import { TextLineStream } from "../runtime/lines.ts";

/**
 * Calls for each host that connects to a subsystem. The kernel's log alone says so (drivers/nvme/target/core.c,
 * nvmet_alloc_ctrl; debugfs has it from 6.11 on).
 * @returns what ends it
 */
export function onConnects(call: (nqn: string) => void): { stop(): void } {
  const child = new Deno.Command("dmesg", {
    args: ["--follow-new", "--notime"],
    stdin: "null",
    stdout: "piped",
    stderr: "null",
  }).spawn();
  follow(child, call).catch((error) => log.error("nobody hears of hosts that connect any more", { error }));
  return {
    stop() {
      try {
        child.kill("SIGKILL");
      } catch {
        // It has ended by itself.
      }
    },
  };
}

/** The NQN in a line of the kernel's log, when a host has connected. */
export function connected(line: string): string | undefined {
  return /nvmet: (?:creating|Created) nvm controller \d+ for subsystem (\S+) for NQN/.exec(line)?.[1];
}

async function follow(child: Deno.ChildProcess, call: (nqn: string) => void): Promise<void> {
  for await (const line of child.stdout.pipeThrough(new TextDecoderStream()).pipeThrough(new TextLineStream())) {
    const nqn = connected(line);
    if (nqn) call(nqn);
  }
}
