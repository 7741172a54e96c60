import { abortable, Deadline } from "../runtime/deadline.ts";
import { FailedPrecondition, messageOf } from "../runtime/errors.ts";

/** The kernel's `sun_path` has 108 bytes with the zero at its end. */
const LONGEST_PATH = 107;

/** Milliseconds that a process may take to accept on its socket, and then to say something. */
const CONNECT_LIMIT = 2000;
const ANSWER_LIMIT = 10_000;

/** How a client of HTTP/2 begins (RFC 9113 §3.4): its preface, and empty settings. The server's own settings come back. */
const preface = new Uint8Array([
  ...new TextEncoder().encode("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
  ...[0, 0, 0, 4, 0, 0, 0, 0, 0],
]);

/**
 * Makes room for a socket of ours: a stale one of a dead process goes, anything else stays and is an error. A missing folder
 * is made, for its owner and the group that may use the socket.
 * @param limit milliseconds for a server to answer: a program that the dead process had started, and that hangs in the
 * kernel, inherited the socket, so that it can be connected to and nobody is there
 * @throws {FailedPrecondition}
 */
export async function clearSocketPath(path: string, group?: number, limit = ANSWER_LIMIT): Promise<void> {
  if (new TextEncoder().encode(path).length > LONGEST_PATH) {
    throw new FailedPrecondition(`the socket path ${path} is over ${LONGEST_PATH} bytes: choose a shorter --endpoint`);
  }
  await makeFolder(path.slice(0, path.lastIndexOf("/")) || "/", group);
  let info: Deno.FileInfo;
  try {
    info = await Deno.lstat(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return;
    throw error;
  }
  if (!info.isSocket) {
    throw new FailedPrecondition(`${path} is there and is no socket: remove it, or choose another --endpoint`);
  }
  if (await isServed(path, limit)) {
    throw new FailedPrecondition(`another process serves ${path}: end it first, or choose another --endpoint`);
  }
  await Deno.remove(path);
}

async function makeFolder(folder: string, group: number | undefined): Promise<void> {
  try {
    if ((await Deno.stat(folder)).isDirectory) return;
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
  await Deno.mkdir(folder, { recursive: true, mode: 0o700 });
  if (group !== undefined) await shareWithGroup(folder, { group, mode: 0o710 });
}

async function isServed(path: string, limit: number): Promise<boolean> {
  using deadline = new Deadline(CONNECT_LIMIT, path);
  const connecting = Deno.connect({ transport: "unix", path });
  try {
    using connection = await abortable(connecting, deadline.signal);
    return await isAnswered(connection, limit);
  } catch (error) {
    if (error instanceof Deno.errors.ConnectionRefused) return false;
    connecting.then((connection) => connection.close(), () => {});
    throw new FailedPrecondition(`cannot tell whether ${path} is in use: ${messageOf(error)}; look with 'ss -xl'`, {
      cause: error,
    });
  }
}

/** Whether anything comes back, the end of the connection included. */
async function isAnswered(connection: Deno.UnixConn, limit: number): Promise<boolean> {
  using deadline = new Deadline(limit, "an answer on the socket");
  const answer = connection.write(preface).then(() => connection.read(new Uint8Array(1))).catch(() => {});
  return await abortable(answer.then(() => true), deadline.signal).catch(() => false);
}

/** Takes away what other users might do with a file made by `make`; grpc-js itself makes sockets that all may use. */
export async function withOwnerOnly<T>(make: () => Promise<T>): Promise<T> {
  const before = Deno.umask(0o177);
  try {
    return await make();
  } finally {
    Deno.umask(before);
  }
}

/** Lets a group use the socket, or pass its folder, besides its owner. @throws {FailedPrecondition} */
export async function shareWithGroup(path: string, { group, mode }: { group: number; mode: number }): Promise<void> {
  try {
    await Deno.chown(path, null, group);
    await Deno.chmod(path, mode);
  } catch (error) {
    throw new FailedPrecondition(`${path} cannot be given to group ${group} (--socket-group): ${messageOf(error)}`, {
      cause: error,
    });
  }
}
