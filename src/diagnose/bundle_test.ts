import { assert, assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { HealthyNode, idOf, nqnOf, version } from "../../tests/diagnose/healthy_node.ts";
import { run } from "../../tests/nvme/stand_in.ts";
import { generateKey } from "../simulator/keys.ts";
import { bundleCommand } from "./bundle.ts";
import { withoutSecrets } from "./secrets.ts";
import { gzip, tar } from "./tar.ts";

const { signal } = new AbortController();

Deno.test("tar() and gzip() make what tar reads", async () => {
  const folder = await Deno.makeTempDir();
  const entries = [{ name: "a/empty", text: "" }, { name: "a/b.txt", text: "x".repeat(512) }, {
    name: "ä",
    text: "grün\n",
  }];
  await Deno.writeFile(`${folder}/x.tar.gz`, await gzip(tar(entries, new Date(0))));
  await run("tar", "-xzf", `${folder}/x.tar.gz`, "-C", folder);
  for (const { name, text } of entries) assertEquals(await Deno.readTextFile(`${folder}/${name}`), text);
  assertThrows(() => tar([{ name: "x".repeat(101), text: "" }], new Date(0)), RangeError);
  await Deno.remove(folder, { recursive: true });
});

/** Secrets in the forms in which they stand in logs and settings, with the word of each that must not come out. */
const planted = {
  "password=hunter2hunter": "hunter2hunter",
  '{"rdsPassword": "tr0ub4dor&3"}': "tr0ub4dor&3",
  "client_secret='s3cr3t-of-mine'": "s3cr3t-of-mine",
  "Authorization: Bearer abcdef0123456789.xyz": "abcdef0123456789.xyz",
  "fetch https://admin:letmein1@10.0.0.1/rest": "letmein1",
  "token eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJzeXN0ZW0ifQ.c2lnbmF0dXJl": "eyJzdWIiOiJzeXN0ZW0ifQ",
  "--dhchap-secret DHHC-1:00:ia6zGodOr4SEG0Zzaw398rpY0wqipUWj4jWjUh4HWUz6aQ2n:":
    "ia6zGodOr4SEG0Zzaw398rpY0wqipUWj4jWjUh4HWUz6aQ2n",
  "api-key: 0123456789abcdef": "0123456789abcdef",
};

Deno.test("withoutSecrets() takes out what is known or looks like a secret, and leaves the rest", () => {
  for (const [text, word] of Object.entries(planted)) {
    assertEquals(withoutSecrets(text, []).includes(word), false, withoutSecrets(text, []));
  }
  const key = generateKey().private;
  const cut = key.slice(0, key.length - 40);
  for (const text of [key, cut, `read: ${JSON.stringify(key)}`, key.split("\n")[3] ?? ""]) {
    const shown = withoutSecrets(text, [key]);
    for (const line of key.split("\n").slice(1, -2)) assertEquals(shown.includes(line), false, shown);
  }
  const plain =
    "the private key file /etc/rds-csi/rds-private-key cannot be read: No such file; nqn.2000-02.com.mikrotik:pvc-1 " +
    'rds_csi_nvme_sessions{state="live"} 2 RDS_CSI_RDS_KEY_FILE=/etc/rds-csi/rds-private-key ssh-ed25519 AAAAC3Nz';
  assertEquals(withoutSecrets(plain, []), plain);
});

Deno.test("bundleCommand() writes reports, metrics, settings, versions and logs, and no secret of any of them", async () => {
  await using node = await HealthyNode.start();
  const key = generateKey().private;
  await node.put("key", key);
  await node.put("agent.log", ["the driver began", ...Object.keys(planted), key, JSON.stringify(key)].join("\n"));
  node.env.RDS_CSI_RDS_KEY_FILE = `${node.folder}/key`;
  node.env.RDS_CSI_RDS_ADDRESS = "127.0.0.1";
  node.env.RDS_CSI_RDS_PORT = "1";
  node.env.RDS_CSI_LOGS = `${node.folder}/agent.log,${node.folder}/no.log`;
  node.env.RDS_CSI_FILE = `${node.folder}/bundle.tar.gz`;
  const { config, problems } = node.request("bundle");
  assertEquals(await bundleCommand(config, { version, problems, signal }), 0);
  assertEquals((await Deno.stat(config.file)).mode! & 0o777, 0o600);

  await Deno.mkdir(`${node.folder}/out`);
  await run("tar", "-xzf", config.file, "-C", `${node.folder}/out`, "--strip-components=1");
  const text = (name: string) => Deno.readTextFile(`${node.folder}/out/${name}`);
  assertStringIncludes(await text("README.txt"), "no.log");
  assertEquals(JSON.parse(await text("node.json")).schema, "rds-csi/diagnose/v1");
  assertStringIncludes(await text("node.txt"), "ok       sessions");
  assertStringIncludes(await text("controller.txt"), "routeros");
  assertStringIncludes(await text("metrics.txt"), "rds_csi_build_info");
  assertEquals(JSON.parse(await text("settings.json"))["rds-address"], "127.0.0.1");
  assertEquals(JSON.parse(await text("versions.json"))["rds-csi"], version);
  const [volume] = JSON.parse(await text("volumes.json"));
  assertEquals([volume.volumeId, volume.record.nqn], [idOf(1), nqnOf(1)]);

  const all = await run("tar", "-xzOf", config.file);
  assertStringIncludes(all, "the driver began");
  for (const word of Object.values(planted)) assert(!all.includes(word), word);
  for (const line of key.split("\n").slice(1, -2)) assert(!all.includes(line), line);
  assert(!/PRIVATE KEY/.test(all));
});
