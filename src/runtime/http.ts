import { FailedPrecondition, messageOf } from "./errors.ts";
import type { Metrics } from "./metrics.ts";

/** What the process says of itself over HTTP. */
export interface HttpOptions {
  host: string;
  /** 0 takes a free one. */
  port: number;
  metrics: Pick<Metrics, "text">;
  /** Whether the process can do its work now; RouterOS being away does not change it. */
  ready: () => boolean;
}

/** Serves `/metrics`, `/healthz` (the process lives) and `/readyz`. */
export function serveHttp(options: HttpOptions): { port: number; close(): Promise<void> } {
  const answer = async (request: Request): Promise<Response> => {
    switch (new URL(request.url).pathname) {
      case "/metrics":
        return new Response(await options.metrics.text(), {
          headers: { "content-type": "text/plain; version=0.0.4; charset=utf-8" },
        });
      case "/healthz":
        return new Response("ok\n");
      case "/readyz":
        return options.ready() ? new Response("ok\n") : new Response("not ready yet\n", { status: 503 });
      default:
        return new Response("there are /metrics, /healthz and /readyz\n", { status: 404 });
    }
  };
  const ending = new AbortController();
  const server = listen({ ...options, signal: ending.signal }, answer);
  return {
    port: server.addr.port,
    async close() {
      // Connections that a scraper keeps open are not waited for.
      const timer = setTimeout(() => ending.abort(), LAST_ANSWERS);
      await server.shutdown();
      clearTimeout(timer);
    },
  };
}

/** Milliseconds that answers under way have when the server ends. */
const LAST_ANSWERS = 500;

function listen(
  { host, port, signal }: HttpOptions & { signal: AbortSignal },
  answer: (request: Request) => Promise<Response>,
): Deno.HttpServer<Deno.NetAddr> {
  try {
    return Deno.serve({ hostname: host || "0.0.0.0", port, signal, onListen: () => {} }, answer);
  } catch (error) {
    throw new FailedPrecondition(
      `--metrics-address ${host}:${port} cannot be listened on: ${
        messageOf(error)
      }; end what uses it or choose another`,
      { cause: error },
    );
  }
}
