import { assert, assertEquals, assertMatch, assertRejects, assertStringIncludes } from "@std/assert";
import { setup } from "@std/log";
import { status } from "@grpc/grpc-js";
import { Controller, type DeleteVolumeRequest, Identity, Node } from "../../proto/gen/csi_pb.ts";
import { Stuck } from "../runtime/command.ts";
import { poll } from "../runtime/deadline.ts";
import { Cancelled, NotFound, TimedOut } from "../runtime/errors.ts";
import { setupLog } from "../runtime/log.ts";
import { Metrics } from "../runtime/metrics.ts";
import { identityService } from "./identity.ts";
import { connect } from "./rpc.ts";
import { type CallContext, CsiServer, type Handlers } from "./server.ts";

const pluginName = "rds.csi.srvlab.io";

/** A server on a socket of its own, and clients of it. */
async function serve(handlers: { controller?: Handlers<typeof Controller>; node?: Handlers<typeof Node> }) {
  const folder = await Deno.makeTempDir({ prefix: "rds-csi-server-" });
  const socket = `${folder}/csi.sock`;
  const metrics = new Metrics("0");
  const server = new CsiServer({ socket, metrics });
  server.add(
    Identity,
    identityService({ name: pluginName, version: "1.2.3", expansion: "offline", ready: () => true }),
  );
  server.add(Controller, handlers.controller ?? {});
  server.add(Node, handlers.node ?? {});
  await server.start();
  const controller = connect(Controller, socket);
  const node = connect(Node, socket);
  const identity = connect(Identity, socket);
  return {
    ...{ server, socket, metrics, controller, node, identity },
    async [Symbol.asyncDispose]() {
      for (const client of [controller, node, identity]) client[Symbol.dispose]();
      await server.stop(1000);
      await Deno.remove(folder, { recursive: true });
    },
  };
}

/** A DeleteVolume that goes on until it is let go or its signal aborts. */
function gated() {
  const calls: CallContext[] = [];
  const gate = Promise.withResolvers<object>();
  const deleteVolume = (_: DeleteVolumeRequest, call: CallContext) => {
    calls.push(call);
    call.signal.addEventListener("abort", () => gate.reject(call.signal.reason));
    return gate.promise;
  };
  return { calls, gate, controller: { deleteVolume } };
}

function eventually<T>(condition: () => T | undefined): Promise<T> {
  return poll(condition, { signal: AbortSignal.timeout(10_000) });
}

/** The status that a call fails with. */
async function failure(call: Promise<unknown>): Promise<{ code: status; details: string }> {
  try {
    await call;
  } catch (error) {
    const { code, details } = error as { code: status; details: string };
    return { code, details };
  }
  throw new Error("the call succeeded");
}

Deno.test("CsiServer answers what the Identity handlers say", async () => {
  await using it = await serve({});
  const { name, vendorVersion } = await it.identity.getPluginInfo({});
  assertEquals([name, vendorVersion], [pluginName, "1.2.3"]);
  assertEquals((await it.identity.probe({})).ready, true);
  const { capabilities } = await it.identity.getPluginCapabilities({});
  assertEquals(capabilities.map(({ type }) => type.case), ["service", "volumeExpansion"]);
  assertEquals(Number(capabilities[1]?.type.value?.type), 2, "OFFLINE, as it was told");
});

Deno.test("CsiServer answers UNIMPLEMENTED to a method without a handler", async () => {
  await using it = await serve({});
  assertEquals((await failure(it.controller.createSnapshot({}))).code, status.UNIMPLEMENTED);
});

Deno.test("CsiServer gives an error's status and whole text, whatever its characters", async () => {
  let error: unknown;
  await using it = await serve({ controller: { deleteVolume: () => Promise.reject(error) } });
  for (
    const [thrown, code, details] of [
      [new NotFound("no such volume"), status.NOT_FOUND, "no such volume"],
      [new TypeError("x is not a function"), status.INTERNAL, "x is not a function"],
      ["a text", status.INTERNAL, "a text"],
      [new NotFound("zwölf\r\n100% „sicher“ 🙂"), status.NOT_FOUND, "zwölf\r\n100% „sicher“ 🙂"],
      [new NotFound("half \ud83d"), status.NOT_FOUND, "half \ufffd"],
      [new NotFound("long ".repeat(4000)), status.NOT_FOUND, "long ".repeat(4000)],
    ] as const
  ) {
    error = thrown;
    assertEquals(await failure(it.controller.deleteVolume({ volumeId: "v" })), { code, details });
  }
});

Deno.test("CsiServer answers INTERNAL when a handler throws at once or answers nonsense", async () => {
  const capacity = "a lot" as unknown as bigint;
  await using it = await serve({
    controller: {
      deleteVolume: () => {
        throw new Error("at once");
      },
      getCapacity: () => Promise.resolve({ availableCapacity: capacity }),
    },
  });
  assertEquals((await failure(it.controller.deleteVolume({ volumeId: "v" }))).code, status.INTERNAL);
  assertEquals((await failure(it.controller.getCapacity({}))).code, status.INTERNAL);
  assertEquals((await it.identity.probe({})).ready, true);
});

Deno.test("call.signal aborts when the caller cancels", async () => {
  const { calls, controller } = gated();
  await using it = await serve({ controller });
  const caller = new AbortController();
  const answer = failure(it.controller.deleteVolume({ volumeId: "v" }, { signal: caller.signal }));
  const call = await eventually(() => calls[0]);
  assertEquals(call.signal.aborted, false);
  caller.abort();
  assertEquals((await answer).code, status.CANCELLED);
  assert((await eventually(() => call.signal.reason)) instanceof Cancelled);
});

Deno.test("call.signal aborts at the caller's deadline", async () => {
  const { calls, controller } = gated();
  await using it = await serve({ controller });
  const answer = failure(it.controller.deleteVolume({ volumeId: "v" }, { deadline: 100 }));
  assertEquals((await answer).code, status.DEADLINE_EXCEEDED);
  assert((await eventually(() => calls[0]?.signal.reason)) instanceof TimedOut);
});

Deno.test("call.signal does not abort after a successful answer", async () => {
  const signals: AbortSignal[] = [];
  const deleteVolume = (_: DeleteVolumeRequest, { signal }: CallContext) => {
    signals.push(signal);
    return Promise.resolve({});
  };
  await using it = await serve({ controller: { deleteVolume } });
  await it.controller.deleteVolume({ volumeId: "v" });
  // By then the event of the first call has come.
  await it.controller.deleteVolume({ volumeId: "v" });
  assertEquals(signals[0]?.aborted, false);
});

Deno.test("CsiServer answers ABORTED to a second change of a volume, and serves other volumes and readers", async () => {
  const { calls, gate, controller } = gated();
  const asked: string[] = [];
  await using it = await serve({
    controller: {
      ...controller,
      controllerGetVolume: ({ volumeId }) => Promise.resolve({ volume: { volumeId } }),
      controllerExpandVolume: ({ volumeId }) => {
        asked.push(volumeId);
        return Promise.resolve({ capacityBytes: 1n });
      },
    },
  });
  const first = it.controller.deleteVolume({ volumeId: "v" });
  await eventually(() => calls[0]);
  const { code, details } = await failure(it.controller.controllerExpandVolume({ volumeId: "v" }));
  assertEquals(code, status.ABORTED);
  assertStringIncludes(details, "DeleteVolume of v is still under way");
  assertEquals((await it.controller.controllerGetVolume({ volumeId: "v" })).volume?.volumeId, "v");
  await it.controller.controllerExpandVolume({ volumeId: "w" });
  assertEquals(asked, ["w"]);
  gate.resolve({});
  await first;
  await it.controller.controllerExpandVolume({ volumeId: "v" });
});

Deno.test("CsiServer guards CreateVolume by its name", async () => {
  const gate = Promise.withResolvers<object>();
  const names: string[] = [];
  await using it = await serve({
    controller: {
      createVolume: ({ name }) => {
        names.push(name);
        return gate.promise;
      },
    },
  });
  const first = it.controller.createVolume({ name: "pvc-1" });
  await eventually(() => names[0]);
  assertEquals((await failure(it.controller.createVolume({ name: "pvc-1" }))).code, status.ABORTED);
  gate.resolve({});
  await first;
});

Deno.test("CsiServer keeps a volume guarded until the work has ended, although its caller has gone", async () => {
  const started = Promise.withResolvers<void>();
  const gate = Promise.withResolvers<object>();
  const deleteVolume = () => {
    started.resolve();
    return gate.promise; // Deaf to its signal.
  };
  await using it = await serve({
    controller: { deleteVolume, controllerExpandVolume: () => Promise.resolve({ capacityBytes: 1n }) },
  });
  const caller = new AbortController();
  const first = failure(it.controller.deleteVolume({ volumeId: "v" }, { signal: caller.signal }));
  await started.promise;
  caller.abort();
  assertEquals((await first).code, status.CANCELLED);
  assertEquals((await failure(it.controller.controllerExpandVolume({ volumeId: "v" }))).code, status.ABORTED);
  gate.resolve({});
  await eventually(() => it.controller.controllerExpandVolume({ volumeId: "v" }).catch(() => undefined));
});

Deno.test("CsiServer keeps a volume guarded while a program hangs in the kernel", async () => {
  const ended = Promise.withResolvers<void>();
  await using it = await serve({
    node: {
      nodeStageVolume: () => Promise.reject(new Stuck("mount hangs", ended.promise)),
      nodeUnstageVolume: () => Promise.resolve({}),
    },
  });
  assertEquals(await failure(it.node.nodeStageVolume({ volumeId: "v" })), {
    code: status.DEADLINE_EXCEEDED,
    details: "mount hangs",
  });
  const { code, details } = await failure(it.node.nodeUnstageVolume({ volumeId: "v" }));
  assertEquals(code, status.ABORTED);
  assertStringIncludes(details, "hangs in the kernel");
  await it.node.nodeUnstageVolume({ volumeId: "w" });
  ended.resolve();
  await eventually(() => it.node.nodeUnstageVolume({ volumeId: "v" }).catch(() => undefined));
});

Deno.test("CsiServer.stop() lets a running call finish and takes no new one", async () => {
  const { calls, gate, controller } = gated();
  await using it = await serve({ controller });
  const running = it.controller.deleteVolume({ volumeId: "v" });
  const call = await eventually(() => calls[0]);
  const stopped = it.server.stop(10_000);
  assertEquals((await failure(it.controller.deleteVolume({ volumeId: "w" }))).code, status.UNAVAILABLE);
  using late = connect(Identity, it.socket);
  assertEquals((await failure(late.probe({}, { deadline: 5000 }))).code, status.UNAVAILABLE);
  assertEquals(call.signal.aborted, false);
  gate.resolve({});
  await running;
  await stopped;
  await assertRejects(() => Deno.lstat(it.socket), Deno.errors.NotFound);
});

Deno.test("CsiServer.stop() aborts what is not done within its grace", async () => {
  const { calls, controller } = gated();
  await using it = await serve({ controller });
  const running = failure(it.controller.deleteVolume({ volumeId: "v" }));
  await eventually(() => calls[0]);
  await it.server.stop(1);
  const { code, details } = await running;
  assertEquals(code, status.UNAVAILABLE);
  assertMatch(details, /shutting down/);
});

Deno.test("CsiServer.stop() waits for work whose caller has gone", async () => {
  const started = Promise.withResolvers<void>();
  const gate = Promise.withResolvers<object>();
  const deleteVolume = () => {
    started.resolve();
    return gate.promise;
  };
  await using it = await serve({ controller: { deleteVolume } });
  const caller = new AbortController();
  const first = failure(it.controller.deleteVolume({ volumeId: "v" }, { signal: caller.signal }));
  await started.promise;
  caller.abort();
  await first;
  const order: string[] = [];
  for (const client of [it.controller, it.node, it.identity]) client[Symbol.dispose]();
  const stopped = it.server.stop(10_000).then(() => order.push("stopped"));
  // Long enough for a server without work to come and go.
  await (await serve({}))[Symbol.asyncDispose]();
  order.push("work ended");
  gate.resolve({});
  await stopped;
  assertEquals(order, ["work ended", "stopped"]);
});

Deno.test("CsiServer counts and measures calls by method and code", async () => {
  await using it = await serve({ controller: { deleteVolume: () => Promise.reject(new NotFound("no")) } });
  await it.identity.probe({});
  await failure(it.controller.deleteVolume({ volumeId: "v" }));
  const text = await it.metrics.text();
  assertMatch(text, /rds_csi_grpc_calls_total\{method="Probe",code="OK"\} 1/);
  assertMatch(text, /rds_csi_grpc_calls_total\{method="DeleteVolume",code="NOT_FOUND"\} 1/);
  assertMatch(text, /rds_csi_grpc_call_duration_seconds_count\{method="DeleteVolume",code="NOT_FOUND"\} 1/);
});

/** What is written to standard error meanwhile. */
async function logged(work: () => Promise<unknown>): Promise<string> {
  const { writeSync } = Deno.stderr;
  let text = "";
  Deno.stderr.writeSync = (bytes) => {
    text += new TextDecoder().decode(bytes);
    return bytes.length;
  };
  setupLog({ level: "DEBUG", format: "json" });
  try {
    await work();
  } finally {
    Deno.stderr.writeSync = writeSync;
    setup({ handlers: {}, loggers: {} });
  }
  return text;
}

Deno.test("CsiServer logs a line a call with method, volume, time, code and number, and never a CSI secret", async () => {
  const planted = "planted-s3cr3t";
  await using it = await serve({
    controller: {
      deleteVolume: ({ volumeId }) => volumeId === "bad" ? Promise.reject(new Error("boom")) : Promise.resolve({}),
    },
    node: { nodeStageVolume: () => Promise.resolve({}) },
  });
  const text = await logged(async () => {
    await it.controller.deleteVolume({ volumeId: "v", secrets: { key: planted } });
    await it.node.nodeStageVolume({ volumeId: "v", secrets: { [planted]: planted } });
    await failure(it.controller.deleteVolume({ volumeId: "bad", secrets: { key: planted } }));
    await it.identity.probe({});
  });
  assert(!text.includes(planted), text);
  const lines = text.trimEnd().split("\n").map((line) => JSON.parse(line));
  assertEquals(lines.map(({ level, msg, code, volumeId, request }) => ({ level, msg, code, volumeId, request })), [
    { level: "INFO", msg: "DeleteVolume", code: "OK", volumeId: "v", request: 1 },
    { level: "INFO", msg: "NodeStageVolume", code: "OK", volumeId: "v", request: 2 },
    { level: "WARN", msg: "DeleteVolume", code: "INTERNAL", volumeId: "bad", request: 3 },
    { level: "DEBUG", msg: "Probe", code: "OK", volumeId: undefined, request: 4 },
  ]);
  assert(lines.every(({ milliseconds }) => Number.isInteger(milliseconds)), text);
  assertStringIncludes(lines[2].error, "boom");
  assertStringIncludes(lines[2].stack, "server_test.ts");
});
