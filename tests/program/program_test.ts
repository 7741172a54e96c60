import { assert, assertEquals, assertMatch, assertRejects, assertStringIncludes } from "@std/assert";
import { Controller, VolumeCapability_AccessMode_Mode as Mode } from "../../proto/gen/csi_pb.ts";
import { connect } from "../../src/csi/rpc.ts";
import { startController } from "../lab/driver.ts";
import { type LabFolder, labFolder } from "../lab/folder.ts";
import { commandLine, type LabProcess, startProcess } from "../lab/process.ts";

const env = { CSI_MANAGED_NQN_PREFIX: "nqn.2000-02.com.mikrotik:pvc-" };

/** Runs the program to its end. */
async function run(settings: Record<string, string | true>, mode: "controller" | "node" | "simulator" = "controller") {
  const folder = Deno.makeTempDirSync();
  const { program, args } = commandLine({ mode, settings, folder });
  const { code, stdout, stderr } = await new Deno.Command(program, { args, env }).output();
  Deno.removeSync(folder, { recursive: true });
  return { code, stdout: new TextDecoder().decode(stdout), stderr: new TextDecoder().decode(stderr) };
}

async function simulator(folder: LabFolder, more: Record<string, string> = {}): Promise<LabProcess> {
  const settings = { listen: "127.0.0.1:0", pool: `${folder.path}/pool`, ...more };
  return await startProcess({ mode: "simulator", folder: folder.path, settings });
}

/** A controller whose RouterOS nobody has ever seen. */
function alone(folder: LabFolder, more: Record<string, string | true> = {}): Promise<LabProcess> {
  const settings = {
    endpoint: `unix://${folder.path}/run/csi.sock`,
    standalone: true as const,
    "rds-address": "127.0.0.1",
    "rds-port": "1",
    "rds-key-file": `${folder.path}/key`,
    "rds-host-key": `${folder.path}/host_key`,
    "metrics-address": "127.0.0.1:0",
    ...more,
  };
  return startProcess({ mode: "controller", folder: folder.path, settings, env });
}

function create(name: string) {
  const accessMode = { mode: Mode.SINGLE_NODE_WRITER };
  return { name, volumeCapabilities: [{ accessMode, accessType: { case: "block" as const, value: {} } }] };
}

Deno.test("the program answers --help and --version and ends with 0", async () => {
  const help = await run({ help: true });
  assertEquals(help.code, 0);
  assertStringIncludes(help.stdout, "--managed-nqn-prefix");
  assertMatch((await run({ version: true })).stdout, /^rds-csi \d+\.\d+\.\d+\S*\n$/);
});

Deno.test("the program ends with 2 and says all that is wrong with its settings", async () => {
  const { code, stderr } = await run({ "rds-port": "x", "no-such-flag": true, "log-format": "xml" });
  assertEquals(code, 2);
  for (const text of ["--rds-port='x'", "--no-such-flag is unknown", "--log-format='xml'", "--rds-address"]) {
    assertStringIncludes(stderr, text);
  }
});

Deno.test("the controller without Kubernetes ends with 1 unless it is told to stand alone", async () => {
  const { code, stderr } = await run({ "rds-address": "127.0.0.1" });
  assertEquals(code, 1);
  assertStringIncludes(stderr, "--standalone");
});

Deno.test("the node refuses roots that Deno would refuse it, and roots that are not there, with the reason", async () => {
  const node = { "node-id": "n", "metrics-address": "127.0.0.1:0" };
  const real = await run({ ...node, "proc-root": "/proc" }, "node");
  assertEquals(real.code, 1);
  assertStringIncludes(real.stderr, "mount the host's tree at another place");
  const absent = await run({ ...node, "proc-root": "/host/no-such-tree" }, "node");
  assertEquals(absent.code, 1);
  assertStringIncludes(absent.stderr, "is no folder");
});

/** A node of empty folders: it has nothing to do. */
async function idleNode(folder: LabFolder, more: Record<string, string | true>): Promise<LabProcess> {
  const roots = { "proc-root": "proc", "sysfs-root": "sys", "dev-root": "dev" };
  const settings = Object.fromEntries(Object.entries(roots).map(([flag, name]) => [flag, `${folder.path}/${name}`]));
  for (const root of Object.values(settings)) await Deno.mkdir(root, { recursive: true });
  const endpoint = `unix://${folder.path}/run/csi.sock`;
  const all = { ...settings, endpoint, "node-id": "n", "metrics-address": "127.0.0.1:0", ...more };
  return await startProcess({ mode: "node", folder: folder.path, settings: all, env });
}

Deno.test("the node does not start without credentials for Kubernetes unless it is told to stand alone", async () => {
  await using folder = await labFolder("program");
  await assertRejects(() => idleNode(folder, {}), Error, "--standalone");
  await using node = await idleNode(folder, { standalone: true });
  assertEquals((await node.stop()).code, 0);
});

Deno.test("the node starts and is ready while the API is away, and without the kernel's module, and says so", async () => {
  await using folder = await labFolder("program");
  await Deno.mkdir(`${folder.path}/sys/module`, { recursive: true });
  const account = { name: "n", user: { token: "t" } };
  const cluster = { name: "n", cluster: { server: "https://127.0.0.1:1" } };
  const contexts = [{ name: "n", context: { cluster: "n", user: "n" } }];
  const config = { clusters: [cluster], users: [account], contexts, "current-context": "n" };
  await Deno.writeTextFile(`${folder.path}/kubeconfig`, JSON.stringify(config));
  await using node = await idleNode(folder, { kubeconfig: `${folder.path}/kubeconfig` });
  assertStringIncludes(node.output, "modprobe nvme-tcp");
  assertEquals((await node.stop()).code, 0);
});

Deno.test("the controller starts and is ready while RouterOS is away, says so in its metrics, and ends with 0 on SIGTERM", async () => {
  await using folder = await labFolder("program");
  const process = await alone(folder);
  using client = connect(Controller, `${folder.path}/run/csi.sock`);
  const error = await assertRejects(() => client.getCapacity({})) as Error & { details: string };
  assertMatch(error.message, /UNAVAILABLE/);
  assertStringIncludes(error.details, `${folder.path}/key`);
  const port = /metricsPort=(\d+)/.exec(process.output)?.[1];
  const get = async (path: string) => await (await fetch(`http://127.0.0.1:${port}${path}`)).text();
  assertEquals([await get("/healthz"), await get("/readyz")], ["ok\n", "ok\n"]);
  const metrics = await get("/metrics");
  assertStringIncludes(metrics, "rds_csi_rds_connection_state 0");
  assertStringIncludes(metrics, 'rds_csi_grpc_calls_total{method="GetCapacity",code="UNAVAILABLE"} 1');
  assertStringIncludes(metrics, 'rds_csi_rds_reconnect_total{status="failure"}');
  assertEquals((await process.stop()).code, 0);
  await assertRejects(() => Deno.lstat(`${folder.path}/run/csi.sock`), Deno.errors.NotFound);
});

Deno.test("the socket is its owner's only; a live one is not taken, one of a dead process is replaced", async () => {
  await using folder = await labFolder("program");
  const first = await alone(folder);
  const socket = await Deno.lstat(`${folder.path}/run/csi.sock`);
  assertEquals((socket.mode ?? 0) & 0o077, 0);
  assertEquals(((await Deno.lstat(`${folder.path}/run`)).mode ?? 0) & 0o077, 0);
  const second = await alone(folder); // It is the first one that answers its Probe.
  assertEquals((await second.status).code, 1);
  assertStringIncludes(second.output, "another process serves");
  first.kill("SIGKILL");
  await first.status;
  await using third = await alone(folder);
  third.assertRunning();
});

Deno.test("SIGTERM lets a call that runs finish, and refuses new ones", async () => {
  await using folder = await labFolder("program");
  await using rds = await simulator(folder, { latency: "disk add=700" });
  const socket = `${folder.path}/controller/csi.sock`;
  const controller = await startController(folder.path, rds, socket);
  using client = connect(Controller, socket);
  await client.getCapacity({});
  const running = client.createVolume(create("slow"));
  await client.listVolumes({}); // Sent after it on the same connection: the create is under way.
  const ended = controller.stop();
  assertEquals((await running).volume?.capacityBytes, 1n << 30n);
  assertEquals((await ended).code, 0);
  await assertRejects(() => client.listVolumes({}, { deadline: 500 }));
});

Deno.test("no CSI secret and no key shows in what the processes write, in text or JSON", async () => {
  for (const format of ["text", "json"]) {
    await using folder = await labFolder("program");
    await using rds = await simulator(folder);
    const socket = `${folder.path}/controller/csi.sock`;
    await using controller = await startController(folder.path, rds, socket, {
      "log-level": "DEBUG",
      "log-format": format,
    });
    using client = connect(Controller, socket);
    const secrets = { password: "planted-secret-1", other: "planted-secret-2" };
    await client.createVolume({ ...create("v"), secrets });
    await assertRejects(() => client.createVolume({ ...create("w"), secrets, parameters: { strange: "1" } }));
    const key = (await Deno.readTextFile(rds.simulator.clientKeyFile as string)).split("\n")[1] as string;
    assertStringIncludes(controller.output, "CreateVolume");
    for (const planted of ["planted-secret-1", "planted-secret-2", key]) assert(!controller.output.includes(planted));
    if (format === "json") { for (const line of controller.output.trim().split("\n")) JSON.parse(line); }
  }
});

Deno.test("the simulator's state survives its restart", async () => {
  await using folder = await labFolder("program");
  const socket = `${folder.path}/controller/csi.sock`;
  const first = await simulator(folder);
  const before = await startController(folder.path, first, socket);
  using client = connect(Controller, socket);
  const { volume } = await client.createVolume(create("v"));
  await before.stop();
  await first.stop();
  await using second = await simulator(folder);
  assertEquals(second.simulator.fingerprint, first.simulator.fingerprint);
  await using _controller = await startController(folder.path, second, socket);
  using again = connect(Controller, socket);
  assertEquals((await again.listVolumes({})).entries[0]?.volume?.volumeId, volume?.volumeId);
});
