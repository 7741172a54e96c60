import { Deadline } from "../../../src/runtime/deadline.ts";
import { TextLineStream } from "../../../src/runtime/lines.ts";

/** Milliseconds that QEMU has to answer. */
const PATIENCE = 20_000;

/**
 * Has a command of QEMU's monitor done (QMP: a connection speaks JSON, a line each way).
 * @param socket the monitor's unix socket
 * @throws with what QEMU says against it
 */
export async function monitor(socket: string, command: string, args: Record<string, unknown> = {}): Promise<unknown> {
  using deadline = new Deadline(PATIENCE, `QEMU's monitor to do ${command}`);
  const connection = await Deno.connect({ transport: "unix", path: socket });
  const end = () => connection.close();
  deadline.signal.addEventListener("abort", end, { once: true });
  try {
    const lines = connection.readable.pipeThrough(new TextDecoderStream()).pipeThrough(new TextLineStream());
    const writer = connection.writable.getWriter();
    const say = (what: unknown) => writer.write(new TextEncoder().encode(`${JSON.stringify(what)}\n`));
    await say({ execute: "qmp_capabilities", id: "hello" });
    await say({ execute: command, arguments: args, id: "command" });
    for await (const line of lines) {
      const said = JSON.parse(line);
      if (said.error) throw new Error(`QEMU does not do ${command}: ${said.error.desc}`);
      if (said.id === "command") return said.return;
    }
    throw new Error(`QEMU ended before it had done ${command}`);
  } finally {
    deadline.signal.removeEventListener("abort", end);
    try {
      connection.close();
    } catch {
      // Its streams have closed it already.
    }
  }
}
