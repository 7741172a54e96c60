import { messageOf } from "../runtime/errors.ts";
import type { Simulator } from "./simulator.ts";

type Request = Record<string, unknown>;

/** Serves faults and state on a unix socket: each line of JSON is answered by a line of JSON. */
export function serveControl(path: string, simulator: Simulator): { close(): Promise<void> } {
  try {
    Deno.removeSync(path);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
  const listener = Deno.listen({ transport: "unix", path });
  Deno.chmodSync(path, 0o600);
  const open = new Set<Deno.Conn>();
  const accepting = (async () => {
    for await (const connection of listener) {
      open.add(connection);
      serve(connection, simulator).catch(() => {}).finally(() => {
        open.delete(connection);
        end(connection);
      });
    }
  })();
  return {
    async close() {
      listener.close();
      open.forEach(end);
      await accepting;
      await Deno.remove(path).catch(() => {});
    },
  };
}

function end(connection: Deno.Conn): void {
  try {
    connection.close();
  } catch {
    // Its streams have closed it already.
  }
}

async function serve(connection: Deno.Conn, simulator: Simulator): Promise<void> {
  const writer = connection.writable.getWriter();
  let rest = "";
  for await (const chunk of connection.readable.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + chunk).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) {
      if (line.trim() === "") continue;
      await writer.write(new TextEncoder().encode(`${JSON.stringify(await answer(line, simulator))}\n`));
    }
  }
}

async function answer(line: string, simulator: Simulator): Promise<Record<string, unknown>> {
  try {
    return { ok: true, ...await perform(JSON.parse(line) as Request, simulator) };
  } catch (error) {
    return { ok: false, error: messageOf(error) };
  }
}

/** The operations of the control socket. */
async function perform(request: Request, simulator: Simulator): Promise<Record<string, unknown>> {
  const { op, ...rest } = request;
  switch (op) {
    case "state":
      return { ...simulator.state() };
    case "fault":
      simulator.faults.add(rest as unknown as Parameters<typeof simulator.faults.add>[0]);
      return {};
    case "noSpace":
    case "busy":
      simulator.faults[op](text(rest["command"]), count(rest["times"]));
      return {};
    case "clear":
      simulator.faults.clear();
      return {};
    case "latency":
      simulator.setLatency(text(rest["command"]) ?? "line", count(rest["milliseconds"]) ?? 0);
      return {};
    case "reboot":
      await simulator.faults.reboot(count(rest["milliseconds"]) ?? 1000);
      return {};
    case "run":
      return { output: await simulator.run(text(rest["line"]) ?? "") };
    default:
      throw new TypeError("op is one of state, fault, noSpace, busy, clear, latency, reboot, run");
  }
}

function text(value: unknown): string | undefined {
  if (value === undefined || typeof value === "string") return value;
  throw new TypeError(`${JSON.stringify(value)} is no text`);
}

function count(value: unknown): number | undefined {
  if (value === undefined || (typeof value === "number" && value >= 0)) return value;
  throw new TypeError(`${JSON.stringify(value)} is no number from 0 on`);
}
