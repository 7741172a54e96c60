import http2 from "node:http2";

/**
 * Deno 2.9's node:http2 frees a session's native half in `destroy()`, at once, also when that is called while nghttp2
 * is working on a frame of the session: a peer's GOAWAY, or the end of the last stream of a session that is closing.
 * What follows is a use after free, and the process dies of SIGSEGV or of an assertion of nghttp2
 * (denoland/deno#36788). Here every session that grpc-js makes is destroyed in a turn of its own instead. To go when
 * Deno's are; tests/program/many_clients_test.ts tells.
 */
export function destroySessionsOutsideOfCallbacks(): void {
  if (done) return;
  done = true;
  const { createServer, connect } = http2;
  http2.createServer = ((...settings: Parameters<typeof createServer>) => {
    const server = createServer(...settings);
    server.on("session", later);
    return server;
  }) as typeof createServer;
  http2.connect = ((...settings: Parameters<typeof connect>) => later(connect(...settings))) as typeof connect;
}

let done = false;

function later<S extends http2.Http2Session>(session: S): S {
  const destroy = session.destroy.bind(session);
  session.destroy = (...reason) => void setImmediate(() => destroy(...reason));
  return session;
}
