import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { RecordingCommands, standIn, whyNoStandIn } from "../../tests/nvme/stand_in.ts";
import { prefix } from "../../tests/lab/routeros.ts";
import { readConfig } from "../config_read.ts";
import { startSimulator } from "../simulator/simulator.ts";
import { Commands } from "../runtime/command.ts";
import { probe } from "./probe.ts";
import type { Patience } from "./questions.ts";
import { connectedQuestions } from "./questions_connected.ts";

const ignore = await whyNoStandIn() !== undefined;
const quick: Patience = { late: 600, held: "100ms", channel: 800, connected: 4000, cutOff: 500, cleaning: 10_000 };
const { signal } = new AbortController();

function freePort(): number {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  return listener.addr.port;
}

async function probesWell(growth: "now" | "reconnect"): Promise<void> {
  await using node = await standIn();
  const simulator = await startSimulator({
    poolFolder: `${node.folder}/pool`,
    exporter: "loop",
    exportsDir: node.exports,
    guesses: { growth },
  });
  await Deno.writeTextFile(`${node.folder}/host_key`, `${simulator.hostKey}\n`);
  const request = readConfig(["diagnose", "probe", "--scratch-size=1M"], {
    CSI_MANAGED_NQN_PREFIX: prefix,
    RDS_CSI_RDS_ADDRESS: simulator.host,
    RDS_CSI_RDS_PORT: String(simulator.port),
    RDS_CSI_RDS_KEY_FILE: simulator.clientKeyFile ?? "",
    RDS_CSI_RDS_HOST_KEY: `${node.folder}/host_key`,
    RDS_CSI_SYSFS_ROOT: node.roots.sysfs,
    RDS_CSI_DEV_ROOT: node.roots.dev,
  });
  if (request.kind !== "command") throw new Error(JSON.stringify(request));
  const commands = new RecordingCommands(node.env);
  const connected = await connectedQuestions(request.config, { commands, patience: quick, signal });
  assertEquals(connected.why, undefined);
  const port = freePort();
  const probed = await probe(request.config, { signal, patience: quick, questions: [], connected, port });
  assertEquals(probed.left, undefined);
  const answers = Object.fromEntries(probed.asked.map(({ name, answer, why }) => [name, answer?.value ?? why]));
  // What stands in for the kernel holds on to an export that is gone, and lets any host in.
  assertEquals([answers.growth, answers.cutsOff, answers.allowsHosts], [growth, false, false]);
  assertEquals((await Array.fromAsync(Deno.readDir(`${node.roots.sysfs}/class/nvme`))).length, 0);
  const connects = commands.started.filter((line) => line.startsWith("nvme connect"));
  for (const line of connects) assertMatch(line, /-n nqn\.2000-02\.com\.mikrotik:rds-csi-probe-[0-9a-f]{28}/);
  await simulator.close();
}

Deno.test({
  name: "probe() finds out with a connected node when growth is seen, connects to its own disk alone, and disconnects",
  ignore,
  fn: async () => void await Promise.all([probesWell("now"), probesWell("reconnect")]),
});

Deno.test("probe() says of what needs a connected node why it was not asked", async () => {
  const request = readConfig(["diagnose", "probe"], { RDS_CSI_RDS_ADDRESS: "127.0.0.1" });
  if (request.kind !== "command") throw new Error(JSON.stringify(request));
  const config = { ...request.config, sysfsRoot: "/host/no-such-tree" };
  const { why, questions } = await connectedQuestions(config, { commands: new Commands(), patience: quick, signal });
  assertStringIncludes(why ?? "", "cannot connect");
  assertEquals(questions.map(({ name }) => name), ["growth", "cutsOff", "allowsHosts"]);
});
