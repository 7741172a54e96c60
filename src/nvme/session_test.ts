import { assert, assertEquals, assertRejects } from "@std/assert";
import { GiB, prefix, TestNode } from "../../tests/nvme/node.ts";
import { whyNoStandIn } from "../../tests/nvme/stand_in.ts";
import { Stuck } from "../runtime/command.ts";
import { poll } from "../runtime/deadline.ts";
import { Cancelled, FailedPrecondition, InvalidArgument, Unreachable } from "../runtime/errors.ts";
import { stagingParts } from "../staging/parts.ts";
import { nqnOf } from "./nqn.ts";
import { NotGrown, type Target } from "./session.ts";

const ignore = await whyNoStandIn() !== undefined;
const volumeId = `pvc-${"a".repeat(28)}`;
const nqn = nqnOf(prefix, volumeId);

function target(node: TestNode, changes: Partial<Target> = {}): Target {
  const { port } = node.server;
  return { nqn, address: "127.0.0.1", port, ctrlLossTmo: -1, reconnectDelay: 5, keepAliveTmo: 0, ...changes };
}

async function exported(deadlines: { connect?: number; command?: number } = {}): Promise<TestNode> {
  const node = await TestNode.start(deadlines);
  await node.server.offer(nqn, GiB);
  return node;
}

const calls = (node: TestNode, command: string) =>
  node.commands.started.filter((line) => line.startsWith(`nvme ${command}`));

async function setState(node: TestNode, state: string): Promise<void> {
  await Deno.writeTextFile(`${node.standIn.roots.sysfs}/class/nvme/nvme0/state`, `${state}\n`);
}

Deno.test({
  name: "Sessions.connect() gives the device of the exact NQN, and uses what is connected",
  ignore,
  async fn() {
    await using node = await exported();
    const device = await node.parts.sessions.connect(target(node));
    const host = await node.parts.host.known;
    assertEquals([device.name, device.size, device.nqn], ["nvme0n1", GiB, nqn]);
    assert((await Deno.stat(device.path)).isBlockDevice);
    assertEquals(await node.parts.sessions.connect(target(node)), device);
    assertEquals(calls(node, "connect"), [
      `nvme connect -t tcp -a 127.0.0.1 -s ${node.server.port} -n ${nqn} --ctrl-loss-tmo=-1 --reconnect-delay=5 ` +
      `--hostnqn=${host.nqn} --hostid=${host.id}`,
    ]);
  },
});

Deno.test({
  name: "Sessions connects as one host, as the settings say, and with the queues that are set",
  ignore,
  async fn() {
    await using node = await exported();
    await node.server.offer(`${nqn}.g1`, GiB);
    const { commands, standIn: { roots, folder } } = node;
    const set = { nqn: "nqn.2020-01.org.example:host", id: "aaaaaaaa-0000-4000-8000-aaaaaaaaaaaa" };
    const common = { commands, roots, prefix, recordsFolder: `${folder}/records` };
    const { sessions } = stagingParts({ ...common, host: set, ioQueues: 3 });
    await sessions.connect(target(node));
    // Another agent, which has nothing set, goes on as the session that is there.
    await stagingParts(common).sessions.connect(target(node, { nqn: `${nqn}.g1` }));
    const [first = "", second = ""] = calls(node, "connect").map((call) => call.replace(/^.*delay=5 /, ""));
    assertEquals(first, `--nr-io-queues=3 --hostnqn=${set.nqn} --hostid=${set.id}`);
    assertEquals(second, `--hostnqn=${set.nqn} --hostid=${set.id}`);
  },
});

Deno.test({
  name: "Sessions.connect() connects nothing while it is not known as whom",
  ignore,
  async fn() {
    await using node = await exported();
    const etcRoot = node.path("etc");
    await Deno.mkdir(etcRoot);
    await Deno.writeTextFile(`${etcRoot}/hostnqn`, "not an NQN\n");
    const { commands, standIn: { roots, folder } } = node;
    const recordsFolder = `${folder}/records`;
    const { sessions } = stagingParts({ commands, roots, prefix, recordsFolder, host: { etcRoot } });
    await assertRejects(() => sessions.connect(target(node)), FailedPrecondition, "hostnqn cannot be used");
    assertEquals(node.commands.started, []);
  },
});

Deno.test({
  name: "Sessions.connect() says that the kernel has no NVMe/TCP when that is why it failed",
  ignore,
  async fn() {
    await using node = await exported();
    await node.server.withdraw(nqn);
    await Deno.remove(`${node.standIn.roots.sysfs}/module/nvme_tcp`);
    await assertRejects(() => node.parts.sessions.connect(target(node)), FailedPrecondition, "--load-modules");
  },
});

Deno.test({
  name: "Sessions touches no NQN that is not ours",
  ignore,
  async fn() {
    await using node = await exported();
    const { sessions } = node.parts;
    for (const foreign of ["nqn.2000-02.com.mikrotik:nixos-var", `${nqn}.g01`, `${prefix}x`, ""]) {
      await assertRejects(() => sessions.connect(target(node, { nqn: foreign })), InvalidArgument, "not touched");
      await assertRejects(() => sessions.disconnect(foreign), InvalidArgument, "CSI_MANAGED_NQN_PREFIX");
      await assertRejects(() => sessions.rescan(foreign, 1), InvalidArgument);
      await assertRejects(() => sessions.device(foreign), InvalidArgument);
    }
    assertEquals(node.commands.started, []);
  },
});

Deno.test({
  name: "Sessions.connect() does not let a dead address reach the kernel",
  ignore,
  async fn() {
    await using node = await exported();
    using closed = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const { port } = closed.addr;
    closed.close();
    await assertRejects(() => node.parts.sessions.connect(target(node, { port })), Unreachable, `127.0.0.1:${port}`);
    assertEquals(node.commands.started, []);
  },
});

Deno.test({
  name: "Sessions.connect() says what nvme-cli said when the server refuses",
  ignore,
  async fn() {
    await using node = await exported();
    await node.server.withdraw(nqn);
    await assertRejects(() => node.parts.sessions.connect(target(node)), Unreachable, "Input/output error");
  },
});

Deno.test({
  name: "Sessions.connect() waits for a session that is connecting and makes no second one",
  ignore,
  async fn() {
    await using node = await exported();
    await node.parts.sessions.connect(target(node));
    await setState(node, "connecting");
    const waiting = node.parts.sessions.connect(target(node));
    await assertRejects(() => node.parts.sessions.device(nqn), Unreachable, "nvme0 connecting");
    await setState(node, "live");
    assertEquals((await waiting).name, "nvme0n1");
    assertEquals(calls(node, "connect").length, 1);
  },
});

Deno.test({
  name: "Sessions.connect() connects anew when the kernel gives the old session up",
  ignore,
  async fn() {
    await using node = await exported();
    await node.parts.sessions.connect(target(node));
    await setState(node, "connecting");
    const waiting = node.parts.sessions.connect(target(node));
    await node.nvme("disconnect", "-n", nqn);
    assertEquals((await waiting).size, GiB);
    assertEquals(calls(node, "connect").length, 2);
  },
});

Deno.test({
  name: "Sessions.connect() waits until a session is deleted before it makes another, and does not wait for a dead one",
  ignore,
  async fn() {
    await using node = await exported();
    await node.parts.sessions.connect(target(node));
    await setState(node, "deleting");
    const waiting = node.parts.sessions.connect(target(node));
    await assertRejects(() => node.parts.sessions.device(nqn), Unreachable, "nvme0 deleting");
    await node.nvme("disconnect", "-n", nqn);
    assertEquals((await waiting).size, GiB);
    assertEquals(calls(node, "connect").length, 2);
    await setState(node, "dead");
    // The kernel takes another controller beside a dead one; the stand-in has room for one and brings that back.
    node.commands.instead = (program, args) => {
      if (program !== "nvme" || args[0] !== "connect") return;
      return setState(node, "live").then(() => ({ code: 0, stdout: "connecting to device: nvme0\n", stderr: "" }));
    };
    assertEquals((await node.parts.sessions.connect(target(node))).size, GiB);
    assertEquals(calls(node, "connect").length, 3);
  },
});

Deno.test({
  name: "Sessions.connect() waits for a controller that has no subsystem yet",
  ignore,
  async fn() {
    await using node = await exported();
    const folder = `${node.standIn.roots.sysfs}/class/nvme/nvme9`;
    await Deno.mkdir(folder, { recursive: true });
    await Deno.writeTextFile(`${folder}/subsysnqn`, `${nqn}\n`);
    await Deno.writeTextFile(`${folder}/state`, "connecting\n");
    const waiting = node.parts.sessions.connect(target(node));
    await assertRejects(() => node.parts.sessions.device(nqn), Unreachable, "nvme9 connecting");
    assertEquals(calls(node, "connect"), []);
    await Deno.remove(folder, { recursive: true }); // The kernel gives it up.
    assertEquals((await waiting).size, GiB);
  },
});

Deno.test({
  name: "Sessions.connect() says at its deadline which state the session is in",
  ignore,
  async fn() {
    await using node = await exported();
    await node.parts.sessions.connect(target(node));
    await setState(node, "connecting");
    const { commands, standIn: { roots, folder } } = node;
    const common = { commands, roots, prefix, recordsFolder: `${folder}/records` };
    const { sessions } = stagingParts({ ...common, deadlines: { connect: 300 } });
    await assertRejects(() => sessions.connect(target(node)), Unreachable, "nvme0 connecting");
    const caller = new AbortController();
    caller.abort();
    await assertRejects(() => sessions.connect(target(node), { signal: caller.signal }), Cancelled);
  },
});

Deno.test({
  name: "Sessions.connect() takes 'already connected' for what it is",
  ignore,
  async fn() {
    await using node = await exported();
    let first = true;
    node.commands.instead = (program, args) => {
      if (program !== "nvme" || args[0] !== "connect" || !first) return;
      first = false;
      // Somebody else is faster between our look and our connect.
      return node.nvme(...args).then(() => ({ code: 1, stdout: "", stderr: "already connected\n" }));
    };
    assertEquals((await node.parts.sessions.connect(target(node))).name, "nvme0n1");
  },
});

Deno.test({
  name: "Sessions lets a program that cannot be ended through as it is, so that its volume stays locked",
  ignore,
  async fn() {
    await using node = await exported();
    await node.parts.sessions.connect(target(node, { nqn: nqn }));
    const { promise: ended } = Promise.withResolvers<void>();
    node.commands.instead = () => Promise.reject(new Stuck("'nvme' hangs", ended));
    const { sessions } = node.parts;
    await assertRejects(() => sessions.disconnect(nqn), Stuck);
    await assertRejects(() => sessions.rescan(nqn, 2 * GiB), Stuck);
    await assertRejects(() => sessions.connect(target(node, { nqn: `${nqn}.g1` })), Stuck);
    node.commands.instead = () => undefined;
    await sessions.disconnect(nqn); // Nobody waits for the one that hangs.
  },
});

Deno.test({
  name: "Sessions.disconnect() ends only the NQN it is told, and is a no-op the second time",
  ignore,
  async fn() {
    await using node = await exported();
    const other = "nqn.2000-02.com.mikrotik:nixos-var";
    await node.server.offer(other, GiB);
    await node.nvme("connect", "-t", "tcp", "-a", "127.0.0.1", "-s", String(node.server.port), "-n", other);
    await node.parts.sessions.connect(target(node));
    await node.parts.sessions.disconnect(nqn);
    await node.parts.sessions.disconnect(nqn);
    assertEquals(await node.parts.sysfs.session(nqn), undefined);
    assertEquals((await node.parts.sysfs.session(other))?.live, true);
    assertEquals(calls(node, "disconnect"), [`nvme disconnect -n ${nqn}`]);
  },
});

Deno.test({
  name: "Sessions.disconnect() fails while the session is still there, whatever nvme-cli says",
  ignore,
  async fn() {
    await using node = await exported({ command: 200 });
    await node.parts.sessions.connect(target(node));
    node.commands.instead = () => ({ code: 0, stdout: `NQN:${nqn} disconnected 1 controller(s)\n`, stderr: "" });
    await assertRejects(() => node.parts.sessions.disconnect(nqn), Unreachable, "still there");
    node.commands.instead = () => undefined;
  },
});

Deno.test({
  name: "Sessions.rescan() waits for the size, and says so when the server shows it only on reconnection",
  ignore,
  async fn() {
    await using node = await exported({ command: 700 });
    await node.parts.sessions.connect(target(node));
    await node.server.offer(nqn, 2 * GiB);
    assertEquals((await node.parts.sessions.rescan(nqn, 2 * GiB)).size, 2 * GiB);
    await node.server.offer(nqn, 3 * GiB, { seen: 2 * GiB });
    await assertRejects(() => node.parts.sessions.rescan(nqn, 3 * GiB), NotGrown, "only on reconnection");
    assertEquals((await node.parts.sessions.device(nqn)).size, 2 * GiB);
  },
});

Deno.test({
  name: "Sessions.rescan() asks again while the server does not show the growth yet",
  ignore,
  async fn() {
    await using node = await exported();
    await node.parts.sessions.connect(target(node));
    await node.server.offer(nqn, 2 * GiB);
    let early = 2; // Looks that are too early.
    node.commands.instead = () => early-- > 0 ? { code: 0, stdout: "", stderr: "" } : undefined;
    assertEquals((await node.parts.sessions.rescan(nqn, 2 * GiB)).size, 2 * GiB);
    assertEquals(calls(node, "ns-rescan").length, 3);
  },
});

Deno.test({
  name: "Sessions.connect() of sessions that hang holds up no other",
  ignore,
  async fn() {
    await using node = await exported({ connect: 5000 });
    const hanging = Array.from({ length: 6 }, (_, i) => nqnOf(prefix, volumeId, i + 1));
    for (const each of hanging) {
      await node.server.offer(each, GiB);
      await node.parts.sessions.connect(target(node, { nqn: each }));
    }
    const { sysfs } = node.standIn.roots;
    for (let i = 0; i < 6; i++) await Deno.writeTextFile(`${sysfs}/class/nvme/nvme${i}/state`, "connecting\n");
    const caller = new AbortController();
    const waiting = hanging.map((each) =>
      node.parts.sessions.connect(target(node, { nqn: each }), { signal: caller.signal })
    );
    const ended = Promise.allSettled(waiting);
    assertEquals((await node.parts.sessions.connect(target(node))).size, GiB);
    caller.abort();
    assertEquals((await ended).every((each) => each.status === "rejected" && each.reason instanceof Cancelled), true);
  },
});

Deno.test({
  name: "Sessions.connect() of one dead server holds up none of twenty",
  ignore,
  async fn() {
    await using node = await exported({ connect: 20_000 });
    // Nobody answers there: a connect waits in the queue of a listener that never accepts.
    const dead = node.parts.sessions.connect(target(node, { address: "198.51.100.1" })).catch((error) => error);
    const others = Array.from({ length: 19 }, (_, i) => nqnOf(prefix, `pvc-${i.toString(16).padStart(28, "0")}`));
    await Promise.all(others.map((each) => node.server.offer(each, GiB)));
    const devices = await Promise.all(others.map((each) => node.parts.sessions.connect(target(node, { nqn: each }))));
    assertEquals(new Set(devices.map((device) => device.path)).size, 19);
    assert(await dead instanceof Unreachable);
    await poll(() => node.commands.running === 0 || undefined, { signal: AbortSignal.timeout(10_000) });
  },
});
