import { assertRejects } from "@std/assert";
import { checkMetrics } from "../lab/promtool.ts";

const help = "# HELP rds_csi_calls_total Calls answered.\n# TYPE rds_csi_calls_total counter\n";

Deno.test("checkMetrics() takes metrics as they should be", async () => {
  await checkMetrics(`${help}rds_csi_calls_total{code="OK"} 3\n`);
});

Deno.test("checkMetrics() refuses metrics that promtool finds fault with, and says which", async () => {
  await assertRejects(() => checkMetrics(`${help}rds_csi_calls_total 3\n{`), Error, "line 4");
  await assertRejects(() => checkMetrics("# TYPE calls counter\ncalls 3\n"), Error, '"_total" suffix');
});
