import { assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { FailedPrecondition } from "./errors.ts";
import { serveHttp } from "./http.ts";
import { Metrics } from "./metrics.ts";

async function get(url: string): Promise<{ status: number; text: string }> {
  const response = await fetch(url);
  return { status: response.status, text: await response.text() };
}

Deno.test("serveHttp() tells health, readiness and metrics, each for itself", async () => {
  const metrics = new Metrics("1.2.3");
  const now: { connected?: boolean } = {};
  metrics.observe({ sshQueueLength: () => 7, sshConnected: () => now.connected });
  metrics.grpcCalls.inc({ method: "Probe", code: "OK" });
  let ready = false;
  const server = serveHttp({ host: "127.0.0.1", port: 0, metrics, ready: () => ready });
  const base = `http://127.0.0.1:${server.port}`;
  assertEquals((await get(`${base}/healthz`)).status, 200);
  assertEquals((await get(`${base}/readyz`)).status, 503);
  ready = true;
  assertEquals((await get(`${base}/readyz`)).status, 200);
  const { text } = await get(`${base}/metrics`);
  assertStringIncludes(text, 'rds_csi_grpc_calls_total{method="Probe",code="OK"} 1');
  assertStringIncludes(text, "rds_csi_ssh_queue_length 7");
  assertEquals(/^rds_csi_rds_connection_state /m.test(text), false, "what is not known is absent, not 0");
  now.connected = false;
  assertStringIncludes((await get(`${base}/metrics`)).text, "rds_csi_rds_connection_state 0");
  assertEquals((await get(`${base}/`)).status, 404);
  await server.close();
});

Deno.test("serveHttp() says which address is taken", async () => {
  const options = { host: "127.0.0.1", port: 0, metrics: new Metrics("1"), ready: () => true };
  const first = serveHttp(options);
  assertThrows(() => serveHttp({ ...options, port: first.port }), FailedPrecondition, `127.0.0.1:${first.port}`);
  await first.close();
});
