import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { HealthyNode } from "../diagnose/healthy_node.ts";
import { commandLine } from "../lab/process.ts";

/** Runs a command with the node's permission set, in the environment that the node's container has. */
async function run(node: HealthyNode, words: readonly string[], more: Record<string, string> = {}) {
  const { program, args } = commandLine({ mode: "node", settings: {}, folder: node.folder });
  const env = { ...node.environment(), RDS_CSI_STANDALONE: "true", ...more };
  const { code, stdout, stderr } = await new Deno.Command(program, { args: [...args, ...words], env }).output();
  return { code, stdout, text: new TextDecoder().decode(stdout), stderr: new TextDecoder().decode(stderr) };
}

Deno.test("rds-csi diagnose looks with the node's own permissions, and its exit status says what it found", async () => {
  await using node = await HealthyNode.start();
  await node.put("sys/class/nvme/nvme1/state", "connecting");
  // The machine that tests run on need not have the node's programs: that alone may be wrong as well.
  const { code, text, stderr } = await run(node, ["diagnose", "--output=json"]);
  assertEquals([code, stderr], [2, ""]);
  const { checks } = JSON.parse(text) as { checks: { name: string; findings: { status: string; code: string }[] }[] };
  const wrong = checks.flatMap(({ name, findings }) => findings.map(({ code }) => `${name}/${code}`))
    .filter((each) => !/\/ok$|^tools\//.test(each));
  assertEquals(wrong, ["socket/socket-foreign", "sessions/session-not-live"]);
});

Deno.test("rds-csi diagnose bundle writes the archive to standard output", async () => {
  await using node = await HealthyNode.start();
  const { code, stdout } = await run(node, ["diagnose", "bundle"]);
  assertEquals([code, stdout[0], stdout[1]], [0, 0x1f, 0x8b]);
});

Deno.test("rds-csi diagnose probe does nothing without the word that it may", async () => {
  await using node = await HealthyNode.start();
  const { code, stderr } = await run(node, ["diagnose", "probe"], { RDS_CSI_RDS_ADDRESS: "127.0.0.1" });
  assertEquals(code, 2);
  assertStringIncludes(stderr, "--yes-make-a-scratch-disk");
});

Deno.test("each command answers --help with what it reads, and ends with 0", async () => {
  await using node = await HealthyNode.start();
  for (
    const words of [["diagnose"], ["diagnose", "controller"], ["diagnose", "probe"], ["diagnose", "bundle"], [
      "prestop",
    ]]
  ) {
    const { code, text } = await run(node, [...words, "--help"]);
    assertEquals(code, 0);
    assert(text.includes(`rds-csi ${words.join(" ")} [settings]`) && text.includes("Settings:"));
  }
});
