import { assert, assertEquals, assertRejects } from "@std/assert";
import { until } from "../routeros.ts";
import { ApiProxy } from "./api_proxy.ts";

/** A tiny API server with a proxy before it. */
interface Pair extends AsyncDisposable {
  proxy: ApiProxy;
  /** What came through, with the token. */
  seen: string[];
  /** Sends to the watches that run. */
  tell(line: string): void;
  /** How many watches run. */
  readonly watching: number;
}

function pair(): Pair {
  const seen: string[] = [];
  const watches = new Set<ReadableStreamDefaultController<Uint8Array<ArrayBuffer>>>();
  function watch(): Response {
    let own: ReadableStreamDefaultController<Uint8Array<ArrayBuffer>>;
    return new Response(
      new ReadableStream<Uint8Array<ArrayBuffer>>({
        start: (controller) => void watches.add(own = controller),
        cancel: () => void watches.delete(own),
      }),
    );
  }
  const server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen: () => {} }, async (request) => {
    const { pathname, search } = new URL(request.url);
    seen.push(`${request.method} ${pathname}${search} ${request.headers.get("authorization")} ${await request.text()}`);
    return search.includes("watch=true") ? watch() : Response.json({ path: pathname });
  });
  const proxy = new ApiProxy({ target: `http://127.0.0.1:${server.addr.port}` });
  return {
    proxy,
    seen,
    tell: (line) => watches.forEach((each) => each.enqueue(new TextEncoder().encode(`${line}\n`))),
    get watching() {
      return watches.size;
    },
    async [Symbol.asyncDispose]() {
      await proxy[Symbol.asyncDispose]();
      await server.shutdown();
    },
  };
}

async function ask({ proxy }: Pair, path: string, init: RequestInit = {}) {
  const answer = await fetch(proxy.url + path, { headers: { authorization: "Bearer t" }, ...init });
  return { status: answer.status, body: await answer.json() };
}

/** A watch that runs, and all that it has told. */
async function watch({ proxy }: Pair, signal?: AbortSignal) {
  const answer = await fetch(`${proxy.url}/pods?watch=true`, signal ? { signal } : {});
  const told: string[] = [];
  const end = (async () => {
    for await (const text of answer.body?.pipeThrough(new TextDecoderStream()) ?? []) told.push(text);
  })();
  // Nobody may look at how it ended.
  end.catch(() => {});
  return { told, end };
}

Deno.test("ApiProxy passes method, path, query, token and body on, and the answer back", async () => {
  await using lab = pair();
  const { status, body } = await ask(lab, "/pods/a?limit=5", { method: "PATCH", body: "{}" });
  assertEquals([status, body], [200, { path: "/pods/a" }]);
  assertEquals(lab.seen.length, 1);
  await ask(lab, "/pods/a?limit=5");
  assertEquals(lab.seen[1], "GET /pods/a?limit=5 Bearer t ");
});

Deno.test("ApiProxy carries a watch's lines as they come, and ends it where its client does", async () => {
  await using lab = pair();
  const client = new AbortController();
  const running = await watch(lab, client.signal);
  lab.tell("one");
  await until(() => running.told.length === 1, "the first line");
  lab.tell("two");
  await until(() => running.told.join("") === "one\ntwo\n", "the second line");
  client.abort();
  await until(() => lab.watching === 0, "the end of the watch at the server");
});

Deno.test("ApiProxy.away() cuts what runs, refuses what comes, and is back at the same address", async () => {
  await using lab = pair();
  const running = await watch(lab);
  await ask(lab, "/pods");
  const back = lab.proxy.away(200);
  await assertRejects(() => running.end);
  await assertRejects(() => ask(lab, "/pods"), TypeError);
  await back;
  assertEquals((await ask(lab, "/pods")).status, 200);
});

Deno.test("ApiProxy.slow() holds an answer back", async () => {
  await using lab = pair();
  lab.proxy.slow(50);
  let isThere = false;
  const asked = ask(lab, "/pods").then(() => isThere = true);
  await until(() => lab.proxy.count() === 1, "the request");
  assert(!isThere);
  assertEquals(lab.seen, []);
  await asked;
});

Deno.test("ApiProxy.answer() gives its answer to the requests that match, so often and no more", async () => {
  await using lab = pair();
  lab.proxy.answer(409, { times: 2, match: (method, path) => method === "PATCH" && path.startsWith("/pvs/") });
  lab.proxy.answer(429, { match: (_, path) => path === "/busy" });
  assertEquals((await ask(lab, "/pvs/a")).status, 200);
  const refused = await ask(lab, "/pvs/a?x=1", { method: "PATCH", body: "{}" });
  assertEquals([refused.status, refused.body.reason, refused.body.kind], [409, "Conflict", "Status"]);
  assertEquals(lab.seen.length, 1);
  assertEquals(lab.proxy.waiting, 2);
  assertEquals((await ask(lab, "/pvs/b", { method: "PATCH", body: "{}" })).status, 409);
  assertEquals((await ask(lab, "/pvs/b", { method: "PATCH", body: "{}" })).status, 200);
  const busy = await fetch(`${lab.proxy.url}/busy`);
  assertEquals([busy.status, busy.headers.get("retry-after")], [429, "1"]);
  await busy.body?.cancel();
});

Deno.test("ApiProxy.answer() afterwards lets the request do its work and loses the answer", async () => {
  await using lab = pair();
  lab.proxy.answer(500, { afterwards: true });
  assertEquals((await ask(lab, "/pods", { method: "POST", body: "{}" })).status, 500);
  assertEquals(lab.seen.length, 1);
});

Deno.test("ApiProxy tells 410 to watches as an event, to one that begins and to those that run", async () => {
  await using lab = pair();
  lab.proxy.answer(410);
  const refused = await watch(lab);
  await refused.end;
  assertEquals(JSON.parse(refused.told.join("")).object.code, 410);

  const running = await watch(lab);
  lab.tell("one");
  await until(() => running.told.length === 1, "the first line");
  assertEquals(lab.proxy.expireWatches((_, path) => path === "/nodes"), 0);
  assertEquals(lab.proxy.expireWatches(), 1);
  await running.end;
  const [, last] = running.told.join("").split("\n");
  assertEquals(JSON.parse(last ?? "").type, "ERROR");
});

Deno.test("ApiProxy.freezeWatches() holds back what running and new watches would tell, until thaw()", async () => {
  await using lab = pair();
  const old = await watch(lab);
  lab.proxy.freezeWatches();
  const young = await watch(lab);
  lab.tell("held");
  // What is not a watch goes on, and comes back later than the line would.
  for (let n = 0; n < 5; n++) await ask(lab, "/pods");
  assertEquals([old.told, young.told], [[], []]);
  lab.proxy.thaw();
  await until(() => old.told.length + young.told.length === 2, "the line in both");
});

Deno.test("ApiProxy.count() tells requests apart by method and path, and watches from lists", async () => {
  await using lab = pair();
  await ask(lab, "/pods");
  await ask(lab, "/pods?limit=1");
  await ask(lab, "/nodes/a");
  await watch(lab);
  const { proxy } = lab;
  assertEquals([proxy.count(), proxy.count("GET"), proxy.count("WATCH")], [4, 3, 1]);
  assertEquals([proxy.count("GET", /^\/pods$/), proxy.count("GET", /^\/nodes\//)], [2, 1]);
});
