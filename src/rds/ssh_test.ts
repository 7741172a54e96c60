import { assert, assertEquals, assertMatch, assertRejects, assertStringIncludes } from "@std/assert";
import { routerOs, until } from "../../tests/lab/routeros.ts";
import { FailedPrecondition, Unreachable } from "../runtime/errors.ts";
import { Connection } from "./connection.ts";
import { ros } from "./script.ts";
import { checkServer, connectServer } from "./server.ts";
import { connectSsh, loginOf, type SshOptions } from "./ssh.ts";

const forever = new AbortController().signal;

type RouterOs = Awaited<ReturnType<typeof routerOs>>;

function options(it: RouterOs, more: Partial<SshOptions> = {}): SshOptions {
  return {
    host: it.simulator.host,
    port: it.simulator.port,
    user: "csi",
    keyFile: it.simulator.clientKeyFile ?? "",
    hostKeyFile: `${it.folder}/host_key`,
    ...more,
  };
}

Deno.test("connectSsh() takes the server whose key is pinned, among other lines too", async () => {
  await using it = await routerOs();
  await Deno.writeTextFile(`${it.folder}/host_key`, `# mine\nrds.example ${it.simulator.hostKey} comment\n`);
  const transport = await connectSsh(options(it), forever);
  assertStringIncludes(await transport.exec(":put 5", forever), "5");
  transport.close();
  await transport.closed;
});

Deno.test("connectSsh() refuses a server without a pinned key, with the fingerprint seen and the line to pin", async () => {
  await using it = await routerOs();
  for (const hostKeyFile of [`${it.folder}/none`, "/dev/null"]) {
    const refused = await assertRejects(
      () => connectSsh(options(it, { hostKeyFile }), forever),
      FailedPrecondition,
    ) as Error;
    assertStringIncludes(refused.message, it.simulator.fingerprint);
    assertStringIncludes(refused.message, it.simulator.hostKey.split(" ")[1] as string);
    assertStringIncludes(refused.message, hostKeyFile);
  }
});

Deno.test("connectSsh() takes no key from a comment or a mark", async () => {
  await using it = await routerOs();
  for (const line of [`# revoked: ${it.simulator.hostKey}`, `@revoked * ${it.simulator.hostKey}`]) {
    await Deno.writeTextFile(`${it.folder}/host_key`, `${line}\n`);
    await assertRejects(() => connectSsh(options(it), forever), FailedPrecondition, "no host key is pinned");
  }
});

Deno.test("a command that is given up leaves no channel open on RouterOS, however early", async () => {
  await using it = await routerOs();
  it.connection.close(); // Its own commands would take the fault.
  const transport = await connectSsh(options(it), forever);
  for (const turns of [0, 1, 5]) {
    it.simulator.faults.hang(":put");
    const before = it.simulator.state().lines;
    const caller = new AbortController();
    const given = transport.exec(":put 1", caller.signal);
    for (let n = 0; n < turns; n++) await new Promise((resolve) => setTimeout(resolve, 1));
    caller.abort();
    await assertRejects(() => given);
    await until(() => it.simulator.state().lines > before, "the line arrived");
    await until(() => it.simulator.state().channels === 0, `closed after ${turns} turns`);
    it.simulator.faults.clear();
  }
  transport.close();
});

Deno.test("connectSsh() refuses a server with another key than the pinned one", async () => {
  await using it = await routerOs();
  await using other = await routerOs();
  const hostKeyFile = `${other.folder}/host_key`;
  await assertRejects(
    () => connectSsh(options(it, { hostKeyFile }), forever),
    FailedPrecondition,
    "not the one pinned",
  );
  const transport = await connectSsh(options(it, { hostKeyFile, insecureSkipVerify: true }), forever);
  transport.close();
});

Deno.test("connectSsh() says what is wrong with the login, the key file and the address", async () => {
  await using it = await routerOs({ simulator: { user: "csi" } });
  const cases: [Partial<SshOptions>, RegExp][] = [
    [{ user: "nobody" }, /refused the login of nobody@.*ssh-keys\/import/],
    [{ keyFile: `${it.folder}/none` }, /private key file .*none cannot be read.*rds-private-key/],
    [{ keyFile: `${it.folder}/host_key` }, /private key file .*host_key cannot be read: /],
    [{ port: 1 }, /cannot be reached at .*:1: .*--rds-port/],
  ];
  for (const [more, pattern] of cases) {
    const error = await assertRejects(() => connectSsh(options(it, more), forever), Error) as Error;
    assertMatch(error.message, pattern);
  }
});

Deno.test("the connection reads key and host key again when their files have changed", async () => {
  await using it = await routerOs();
  const good = await Deno.readTextFile(`${it.folder}/host_key`);
  await Deno.writeTextFile(`${it.folder}/host_key`, "");
  const connection = new Connection({ connect: (signal) => connectServer(options(it), signal), random: () => 0.01 });
  connection.start();
  const ask = () => connection.run({ doing: "ask", kind: "test", deadline: 5000, script: () => ros`:put 1` });
  await assertRejects(ask, Unreachable, "no host key is pinned");
  await Deno.writeTextFile(`${it.folder}/host_key`, good);
  await until(() => ask().then((answer) => answer === "1", () => false), "accepted with the new file");
  connection.close();
});

Deno.test("an open connection is left when the key files change, and what runs on it ends before", async () => {
  await using it = await routerOs();
  const ssh = options(it);
  const connection = new Connection({
    connect: (signal) => connectServer(ssh, signal),
    login: () => loginOf(ssh),
    loginInterval: 5,
    random: () => 0.01,
  });
  connection.start();
  const ask = (script = ros`:put 1`) =>
    connection.run({ doing: "ask", kind: "test", deadline: 5000, script: () => script });
  await ask();
  it.simulator.setLatency("disk print", 200);
  const running = ask(ros`:put [:len [/disk/print as-value]]`);
  await Deno.writeTextFile(`${it.folder}/host_key`, "");
  await until(
    () => ask().then(() => false, (error) => error.message.includes("no host key is pinned")),
    "refused anew",
  );
  assertEquals(await running, "1");
  connection.close();
});

Deno.test("a transport whose connection is cut loses its answers, and never takes half of one for the whole", async () => {
  for (const when of ["before", "middle", "after", "answer"] as const) {
    await using it = await routerOs();
    it.connection.close(); // Its own commands would take the fault.
    const transport = await connectSsh(options(it), forever);
    it.simulator.faults.cut(when, when === "middle" ? "disk print" : "");
    await assertRejects(
      () => transport.exec(":put [/disk/print detail as-value]", forever),
      Unreachable,
      "before the answer",
    );
    await transport.closed;
    await assertRejects(() => transport.exec(":put 1", forever), Unreachable);
  }
});

Deno.test("checkServer() refuses a RouterOS before 7.21 with the reason, and takes later ones", async () => {
  const answers = (version: string) => ({
    exec: () => Promise.resolve(`${version}\r\n1\r\n`),
    closed: forever as never,
    close() {},
  });
  for (const version of ["7.20.8 (long-term)", "7.16 (stable)", "6.49.18 (long-term)"]) {
    await assertRejects(() => checkServer(answers(version), forever), FailedPrecondition, "NQN of its own");
  }
  for (const version of ["7.21 (stable)", "7.24.4 (stable)", "8.0 (stable)"]) {
    await checkServer(answers(version), forever);
  }
  await assertRejects(
    () => checkServer(answers("bad command name get (line 1 column 6)"), forever),
    Error,
    "bad command",
  );
});

Deno.test("a server that is too old is told to every caller, until it is upgraded", async () => {
  await using it = await routerOs({ simulator: { version: "7.20 (stable)" } });
  await assertRejects(() => it.volumes.get("pvc-1"), Unreachable, "upgrade RouterOS");
});

Deno.test("the private key shows in no log line", async () => {
  await using it = await routerOs();
  const key = await Deno.readTextFile(it.simulator.clientKeyFile as string);
  await assertRejects(() => connectSsh(options(it, { port: 1 }), forever), Error);
  const { formatJson } = await import("../runtime/log.ts");
  const { LogRecord } = await import("@std/log");
  const line = formatJson(new LogRecord({ msg: `broken: ${key}`, args: [{ key }], level: 20, loggerName: "default" }));
  for (const part of key.split("\n").filter((part) => part.length > 20 && !part.startsWith("---"))) {
    assert(!line.includes(part));
  }
  assertEquals(line.includes("(hidden)"), true);
});
