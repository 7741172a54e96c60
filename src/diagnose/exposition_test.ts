import { assertEquals } from "@std/assert";
import { NodeMetrics } from "../runtime/node_metrics.ts";
import { addressOf, parseExposition, valueOf } from "./exposition.ts";

Deno.test("parseExposition() reads what the driver writes", async () => {
  const metrics = new NodeMetrics('1.0 "x"');
  metrics.observe({ breakersOpen: () => 2, commandsStuck: () => 0 });
  metrics.sessions.set({ state: "live" }, 3);
  metrics.sessions.set({ state: "connecting" }, 1);
  const samples = parseExposition(await metrics.text());
  assertEquals(samples.find(({ name }) => name === "rds_csi_nvme_sessions"), {
    name: "rds_csi_nvme_sessions",
    labels: { state: "live" },
    value: 3,
  });
  assertEquals(valueOf(samples, "nvme_sessions"), 4);
  assertEquals([valueOf(samples, "circuit_breakers_open"), valueOf(samples, "child_processes_stuck")], [2, 0]);
  assertEquals(valueOf(samples, "host_nqn_duplicate"), undefined);
});

Deno.test("addressOf() takes the loopback where all addresses are served", () => {
  assertEquals(addressOf({ host: "", port: 9809 }), "127.0.0.1:9809");
  assertEquals(addressOf({ host: "10.0.0.1", port: 1 }), "10.0.0.1:1");
  assertEquals(addressOf({ host: "fd00::1", port: 1 }), "[fd00::1]:1");
});
