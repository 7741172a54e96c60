import { assertEquals, assertMatch, assertRejects } from "@std/assert";
import { Deadline, poll } from "../runtime/deadline.ts";
import { FailedPrecondition } from "../runtime/errors.ts";
import { connectKube, fromPod, transport } from "./connect.ts";

/** A pod's credentials, as the kubelet lays them down. */
async function account(): Promise<string> {
  const folder = await Deno.makeTempDir();
  await Deno.writeTextFile(`${folder}/token`, "first\n");
  await Deno.writeTextFile(`${folder}/ca.crt`, "certificates");
  await Deno.writeTextFile(`${folder}/namespace`, "storage");
  return folder;
}

function environment(host: string | undefined, port = "443") {
  return (name: string) => ({ KUBERNETES_SERVICE_HOST: host, KUBERNETES_SERVICE_PORT: port })[name];
}

Deno.test("fromPod() reads the token anew for each request, and takes IPv6 addresses", async () => {
  const folder = await account();
  const { server, namespace, read } = await fromPod({ folder, env: environment("10.96.0.1", "6443") });
  assertEquals([server, namespace], ["https://10.96.0.1:6443", "storage"]);
  assertEquals(await read(), { headers: { authorization: "Bearer first" }, ca: "certificates" });
  await Deno.writeTextFile(`${folder}/token`, "second");
  await Deno.writeTextFile(`${folder}/ca.crt`, "others");
  assertEquals(await read(), { headers: { authorization: "Bearer second" }, ca: "others" });
  assertEquals((await fromPod({ folder, env: environment("fd00::1") })).server, "https://[fd00::1]:443");
  await Deno.remove(folder, { recursive: true });
});

Deno.test("fromPod() refuses what is not there, and no empty token is sent", async () => {
  const folder = await account();
  const env = environment("10.96.0.1");
  await assertRejects(() => fromPod({ folder, env: environment(undefined) }), Error, "KUBERNETES_SERVICE_HOST");
  const { read } = await fromPod({ folder, env });
  await Deno.writeTextFile(`${folder}/token`, "");
  await assertRejects(() => read(), Error, "token is empty");
  await Deno.remove(`${folder}/namespace`);
  await Deno.writeTextFile(`${folder}/token`, "again");
  assertEquals((await fromPod({ folder, env })).namespace, undefined);
  await Deno.remove(`${folder}/ca.crt`);
  await assertRejects(() => fromPod({ folder, env }), Deno.errors.NotFound);
  await Deno.remove(folder, { recursive: true });
});

Deno.test("connectKube() takes a kubeconfig, and says what to do where there are no credentials", async () => {
  const options = { kubeconfig: undefined, namespace: undefined, deadline: 1000 };
  const error = await assertRejects(() => connectKube(options), FailedPrecondition) as Error;
  assertMatch(error.message, /KUBERNETES_SERVICE_HOST.*--kubeconfig.*--standalone/);
  const path = await Deno.makeTempFile();
  const config = (cluster: object) => ({
    clusters: [{ name: "c", cluster }],
    contexts: [{ name: "x", context: { cluster: "c", user: "u", namespace: "there" } }],
    users: [{ name: "u", user: { token: "t" } }],
    "current-context": "x",
  });
  await Deno.writeTextFile(path, JSON.stringify(config({ server: "https://api:6443" })));
  assertEquals((await connectKube({ ...options, kubeconfig: path })).namespace, "there");
  assertEquals((await connectKube({ ...options, kubeconfig: path, namespace: "here" })).namespace, "here");
  await Deno.writeTextFile(path, JSON.stringify(config({ server: "https://a", "insecure-skip-tls-verify": true })));
  await assertRejects(() => connectKube({ ...options, kubeconfig: path }), FailedPrecondition, "insecure");
  await Deno.remove(path);
  await assertRejects(() => connectKube({ ...options, kubeconfig: path }), FailedPrecondition, "--kubeconfig");
});

/** A server that answers a request when it is told to: first a piece of the body, then the rest. */
function slowServer() {
  const asked: { answer: (text: string) => void; end: () => void }[] = [];
  const encoder = new TextEncoder();
  const ending = new AbortController();
  const server = Deno.serve({ port: 0, onListen() {}, signal: ending.signal }, () => {
    const { readable, writable } = new TransformStream<Uint8Array, Uint8Array>();
    const writer = writable.getWriter();
    const begun = Promise.withResolvers<void>();
    const answer = (text: string) => {
      begun.resolve();
      writer.write(encoder.encode(text)).catch(() => {});
    };
    asked.push({ answer, end: () => writer.close() });
    return begun.promise.then(() => new Response(readable));
  });
  const untilAsked = async (count: number) => {
    using deadline = new Deadline(10_000, "the requests");
    await poll(() => asked.length >= count || undefined, { signal: deadline.signal });
  };
  return { asked, untilAsked, url: `http://127.0.0.1:${server.addr.port}`, close: () => ending.abort() };
}

Deno.test("transport() closes the client of the certificates before, and what was asked through it goes on", async () => {
  const create = Deno.createHttpClient;
  const clients: Deno.HttpClient[] = [];
  let closed = 0;
  Deno.createHttpClient = (options) => {
    const client = create(options);
    const close = client.close.bind(client);
    client.close = () => {
      closed++;
      close();
    };
    clients.push(client);
    return client;
  };
  const server = slowServer();
  try {
    let ca = "first";
    const { headers, fetch } = transport({ read: () => Promise.resolve({ headers: {}, ca }) });
    await headers();
    const watch = fetch(server.url, {});
    await server.untilAsked(1);
    const [first] = server.asked;
    const post = fetch(server.url, { method: "POST", body: "{}" });
    first?.answer("a");
    const body = (await watch).body?.pipeThrough(new TextDecoderStream()).getReader();
    assertEquals((await body?.read())?.value, "a");
    await headers();
    assertEquals([clients.length, closed], [1, 0], "the same certificates");
    ca = "second";
    const late = fetch(server.url, { method: "POST", body: "{}" }); // Begun in the same moment.
    await headers();
    assertEquals([clients.length, closed], [2, 1]);
    const after = fetch(server.url, {});
    await server.untilAsked(4);
    for (const each of server.asked.slice(1)) {
      each.answer("whole");
      each.end();
    }
    for (const each of [post, late, after]) assertEquals(await (await each).text(), "whole");
    first?.answer("b");
    first?.end();
    assertEquals([(await body?.read())?.value, (await body?.read())?.done], ["b", true]);
  } finally {
    clients.at(-1)?.close();
    Deno.createHttpClient = create;
    server.close();
  }
});
