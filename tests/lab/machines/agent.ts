/**
 * Runs inside a machine as its first process: runs programs, keeps processes and reads files for the tests on the host,
 * and joins connections to unix sockets. It never touches a path by itself that it was not asked for, so it goes on
 * answering whatever hangs in the kernel. Arguments: its port, and that of the tunnel.
 * @module
 */
import { pause } from "../../../src/runtime/deadline.ts";

const [port = 0, tunnelPort = 0] = Deno.args.map(Number);

/** What `/run` and `/start` are given. */
export interface Start {
  program: string;
  args?: readonly string[];
  stdin?: string;
  env?: Readonly<Record<string, string>>;
  cwd?: string;
  /** Milliseconds until the program is killed; `/run` alone. */
  deadline?: number;
}

/** What `/run` answers. */
export interface Ran {
  code: number;
  stdout: string;
  stderr: string;
  /** It was killed at the deadline; `stuck`: in vain, it hangs in the kernel and is left alone. */
  late?: "killed" | "stuck";
}

/** Bytes of each output that are kept. */
const KEPT = 2 ** 24;

class Kept {
  readonly child: Deno.ChildProcess;
  readonly #parts: Uint8Array[] = [];
  readonly #readers = new Set<() => void>();
  #size = 0;
  status: Deno.CommandStatus | undefined;

  constructor(start: Start) {
    this.child = spawn(start);
    void this.#collect(this.child.stdout);
    void this.#collect(this.child.stderr);
    this.child.status.then((status) => {
      this.status = status;
      this.#tell();
    });
  }

  /** All that it writes, from its start to its end. */
  output(): ReadableStream<Uint8Array> {
    let next = 0;
    let wake = () => {};
    return new ReadableStream({
      pull: async (controller) => {
        for (;;) {
          const part = this.#parts[next++];
          if (part) return controller.enqueue(part);
          next--;
          if (this.status) return controller.close();
          const { promise, resolve } = Promise.withResolvers<void>();
          this.#readers.add(wake = resolve);
          await promise;
          this.#readers.delete(resolve);
        }
      },
      cancel: () => void this.#readers.delete(wake),
    });
  }

  #tell(): void {
    for (const wake of this.#readers) wake();
  }

  async #collect(stream: ReadableStream<Uint8Array>): Promise<void> {
    for await (const part of stream) {
      this.#size += part.length;
      if (this.#size < KEPT) this.#parts.push(part);
      this.#tell();
    }
  }
}

const processes = new Map<string, Kept>();

function spawn({ program, args = [], env = {}, cwd, stdin }: Start): Deno.ChildProcess {
  return new Deno.Command(program, {
    args: [...args],
    env: { ...env },
    ...(cwd ? { cwd } : {}),
    stdin: stdin === undefined ? "null" : "piped",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
}

async function run(start: Start): Promise<Ran> {
  const child = spawn(start);
  if (start.stdin !== undefined) void new Blob([start.stdin]).stream().pipeTo(child.stdin).catch(() => {});
  const outputs = [new Collected(child.stdout), new Collected(child.stderr)] as const;
  const ended = child.status;
  const inTime = await Promise.race([ended.then(() => true), pause(start.deadline ?? 60_000).then(() => false)]);
  const said = () => ({ stdout: outputs[0].text, stderr: outputs[1].text });
  if (!inTime) {
    child.kill("SIGKILL");
    const died = await Promise.race([ended.then(() => true), pause(1000).then(() => false)]);
    if (!died) child.unref();
    return { code: -1, late: died ? "killed" : "stuck", ...said() };
  }
  // What went into the background may hold the pipes for ever.
  await Promise.race([Promise.all(outputs.map(({ done }) => done)), pause(500)]);
  return { code: (await ended).code, ...said() };
}

/** What has come out of a pipe so far. */
class Collected {
  text = "";
  readonly done: Promise<void>;
  constructor(stream: ReadableStream<Uint8Array<ArrayBuffer>>) {
    this.done = this.#read(stream);
  }
  async #read(stream: ReadableStream<Uint8Array<ArrayBuffer>>): Promise<void> {
    for await (const part of stream.pipeThrough(new TextDecoderStream())) {
      if (this.text.length < KEPT) this.text += part;
    }
  }
}

function kept(name: string): Kept {
  const found = processes.get(name);
  if (!found) {
    throw new Error(`there is no process '${name}': ${[...processes.keys()].join(", ") || "none was started"}`);
  }
  return found;
}

async function answer(request: Request): Promise<Response> {
  const { pathname, searchParams } = new URL(request.url);
  const name = searchParams.get("name") ?? "";
  switch (pathname) {
    case "/":
      return Response.json({});
    case "/run":
      return Response.json(await run(await request.json()));
    case "/start":
      if (processes.get(name)?.status === undefined && processes.has(name)) throw new Error(`${name} runs already`);
      processes.set(name, new Kept(await request.json()));
      return Response.json({ pid: kept(name).child.pid });
    case "/signal":
      if (!kept(name).status) kept(name).child.kill(searchParams.get("signal") as Deno.Signal);
      return Response.json({});
    case "/process":
      return Response.json({ running: !kept(name).status, code: kept(name).status?.code, pid: kept(name).child.pid });
    case "/output":
      return new Response(kept(name).output());
    case "/file":
      if (request.method === "GET") return new Response((await Deno.open(name)).readable);
      await Deno.writeFile(name, await request.bytes());
      return Response.json({});
    default:
      return new Response(`there is no ${pathname}`, { status: 404 });
  }
}

/** A line with the path of a unix socket, then whatever goes to and fro. */
async function tunnel(connection: Deno.TcpConn): Promise<void> {
  connection.setNoDelay();
  const path = [];
  const byte = new Uint8Array(1);
  while (await connection.read(byte) && byte[0] !== 10) path.push(byte[0] ?? 0);
  const socket = await Deno.connect({ transport: "unix", path: new TextDecoder().decode(Uint8Array.from(path)) });
  await Promise.allSettled([
    connection.readable.pipeTo(socket.writable),
    socket.readable.pipeTo(connection.writable),
  ]);
}

async function serveTunnel(): Promise<void> {
  for await (const connection of Deno.listen({ hostname: "0.0.0.0", port: tunnelPort })) {
    void tunnel(connection).catch(() => {}).finally(() => {
      try {
        connection.close();
      } catch {
        // Its streams have closed it already.
      }
    });
  }
}

if (import.meta.main) {
  // A first process without a handler for a signal never gets it, and one that throws takes the machine with it.
  globalThis.addEventListener("unhandledrejection", (event) => {
    event.preventDefault();
    Deno.stdout.writeSync(new TextEncoder().encode(`agent: ${event.reason}\n`));
  });
  void serveTunnel();
  Deno.serve({
    hostname: "0.0.0.0",
    port,
    onListen: () => void Deno.stdout.writeSync(new TextEncoder().encode("\nagent ready\n")),
    onError: (error) => new Response(error instanceof Error ? error.message : String(error), { status: 500 }),
  }, answer);
}
