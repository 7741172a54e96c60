import { assert, assertEquals, assertRejects } from "@std/assert";
import { FailedPrecondition } from "../runtime/errors.ts";
import { Metrics } from "../runtime/metrics.ts";
import { connect } from "./rpc.ts";
import { Identity } from "../../proto/gen/csi_pb.ts";
import { identityService } from "./identity.ts";
import { CsiServer } from "./server.ts";
import { clearSocketPath } from "./socket.ts";

async function inFolder(work: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir({ prefix: "rds-csi-socket-" });
  try {
    await work(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

function server(socket: string, group?: number): CsiServer {
  const made = new CsiServer({ socket, group, metrics: new Metrics("0") });
  made.add(Identity, identityService({ name: "x", version: "1", expansion: "online", ready: () => true }));
  return made;
}

/**
 * Asks the server behind a socket, with a connection that ends before the server does: Deno 2.9.6 can crash when a gRPC
 * client of the same process finds its server gone.
 */
async function probe(socket: string): Promise<{ ready?: boolean | undefined }> {
  using identity = connect(Identity, socket);
  return await identity.probe({});
}

async function modeOf(path: string): Promise<number> {
  return ((await Deno.stat(path)).mode ?? 0) & 0o777;
}

/** Leaves a socket behind as a process does that was killed. */
async function leaveStaleSocket(path: string): Promise<void> {
  const script = `Deno.listen({ transport: "unix", path: ${JSON.stringify(path)} }); Deno.kill(Deno.pid, "SIGKILL");`;
  await new Deno.Command(Deno.execPath(), { args: ["eval", "--no-config", script] }).output();
  assert((await Deno.lstat(path)).isSocket);
}

Deno.test("CsiServer makes socket and folder for their owner only, and leaves the process' umask as it was", () =>
  inFolder(async (folder) => {
    const before = Deno.umask();
    const socket = `${folder}/new/csi.sock`;
    const made = server(socket);
    await made.start();
    assertEquals([await modeOf(`${folder}/new`), await modeOf(socket)], [0o700, 0o600]);
    assertEquals(Deno.umask(), before);
    await made.stop(1000);
  }));

Deno.test("CsiServer shares the socket with the group that is named, and lets it pass the folder that it makes", () =>
  inFolder(async (folder) => {
    const socket = `${folder}/new/csi.sock`;
    const group = Deno.gid() ?? 0;
    const made = server(socket, group);
    await made.start();
    assertEquals([await modeOf(`${folder}/new`), await modeOf(socket)], [0o710, 0o660]);
    assertEquals((await Deno.stat(socket)).gid, group);
    await made.stop(1000);
  }));

Deno.test("CsiServer replaces the stale socket of a dead process", () =>
  inFolder(async (folder) => {
    const socket = `${folder}/csi.sock`;
    await leaveStaleSocket(socket);
    const made = server(socket);
    await made.start();
    assertEquals((await probe(socket)).ready, true);
    await made.stop(1000);
  }));

Deno.test("CsiServer does not take a live socket away", () =>
  inFolder(async (folder) => {
    const socket = `${folder}/csi.sock`;
    const first = server(socket);
    await first.start();
    await assertRejects(() => server(socket).start(), FailedPrecondition, `another process serves ${socket}`);
    assertEquals((await probe(socket)).ready, true);
    await first.stop(1000);
  }));

Deno.test("clearSocketPath() removes a socket on which nobody answers: a child of a dead process may hold it open", () =>
  inFolder(async (folder) => {
    const path = `${folder}/csi.sock`;
    using _held = Deno.listen({ transport: "unix", path });
    await clearSocketPath(path, undefined, 50);
    await assertRejects(() => Deno.lstat(path), Deno.errors.NotFound);
  }));

Deno.test("clearSocketPath() never removes what is no socket", () =>
  inFolder(async (folder) => {
    await Deno.writeTextFile(`${folder}/file`, "mine");
    await Deno.symlink("file", `${folder}/link`);
    await Deno.mkdir(`${folder}/folder`);
    for (const name of ["file", "link", "folder"]) {
      await assertRejects(() => clearSocketPath(`${folder}/${name}`), FailedPrecondition, "is no socket");
      await Deno.lstat(`${folder}/${name}`);
    }
  }));

Deno.test("clearSocketPath() refuses a path that the kernel would cut", () =>
  inFolder(async (folder) => {
    const longest = `${folder}/${"x".repeat(107 - folder.length - 1)}`;
    await clearSocketPath(longest);
    await assertRejects(() => clearSocketPath(`${longest}x`), FailedPrecondition, "over 107 bytes");
    const twoBytes = `${folder}/${"ö".repeat(Math.ceil((108 - folder.length - 1) / 2))}`;
    await assertRejects(() => clearSocketPath(twoBytes), FailedPrecondition, "over 107 bytes");
  }));
