import { assert, assertEquals, assertInstanceOf, assertRejects } from "@std/assert";
import { abortable } from "../runtime/deadline.ts";
import {
  AlreadyExists,
  Cancelled,
  FailedPrecondition,
  InvalidArgument,
  NotFound,
  TimedOut,
  Unreachable,
} from "../runtime/errors.ts";
import { type Fetch, Kube, type KubeObject, type WatchEvent } from "./client.ts";
import { Conflict, Forbidden, Gone, kubeError, NamespaceEnding } from "./errors.ts";

const path = "/api/v1/persistentvolumes";

function kubeWith(fetch: Fetch, more: { server?: string; deadline?: number } = {}): Kube {
  const headers = () => Promise.resolve({ authorization: "Bearer t" });
  return new Kube({ server: "https://api", namespace: "ns", headers, fetch, deadline: 10_000, ...more });
}

function json(body: unknown, status = 200): Response {
  return new Response(JSON.stringify(body), { status });
}

/** Answers one request after the other, and keeps what was asked. */
function answers(...list: (Response | Error)[]): { fetch: Fetch; asked: URL[]; inits: RequestInit[] } {
  const asked: URL[] = [];
  const inits: RequestInit[] = [];
  const fetch: Fetch = (url, init) => {
    asked.push(new URL(url));
    inits.push(init);
    const next = list.shift() ?? new Error("asked too often");
    return next instanceof Error ? Promise.reject(next) : Promise.resolve(next);
  };
  return { fetch, asked, inits };
}

/** Never answers, but listens to its signal as fetch does. */
function silent(_url: string, { signal }: RequestInit): Promise<Response> {
  return abortable(new Promise<Response>(() => {}), signal ?? undefined);
}

function lines(...events: unknown[]): Response {
  return new Response(events.map((event) => JSON.stringify(event) + "\n").join(""));
}

function named(name: string, resourceVersion = "1"): KubeObject {
  return { metadata: { name, resourceVersion } };
}

async function watchOf(response: Response): Promise<WatchEvent<KubeObject>[]> {
  const seen: WatchEvent<KubeObject>[] = [];
  const { signal } = new AbortController();
  const kube = kubeWith(answers(response).fetch);
  for await (const event of kube.watch(path, { resourceVersion: "7", signal })) seen.push(event);
  return seen;
}

Deno.test("Kube.list() reads page after page, from a quorum, and gives the version to watch from", async () => {
  const { fetch, asked } = answers(
    json({ metadata: { continue: "more", resourceVersion: "5" }, items: [named("a")] }),
    json({ metadata: { resourceVersion: "5" }, items: null }),
  );
  const seen: string[] = [];
  assertEquals(
    await kubeWith(fetch).list(path, ({ metadata }) => seen.push(metadata.name), { query: { q: "1" } }),
    "5",
  );
  assertEquals(seen, ["a"]);
  assertEquals(asked.map(({ search }) => search), ["?q=1&limit=500", "?q=1&limit=500&continue=more"]);
});

Deno.test("Kube.list() asks for metadata alone where that is enough, and takes whole objects from a server without it", async () => {
  const { fetch, inits } = answers(json({ metadata: { resourceVersion: "5" }, items: [named("a")] }));
  const seen: string[] = [];
  await kubeWith(fetch).list(path, ({ metadata }) => seen.push(metadata.name), { metadataOnly: true });
  assertEquals(seen, ["a"]);
  const { accept } = inits[0]?.headers as Record<string, string>;
  assertEquals(accept, "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json");
});

Deno.test("Kube.list() says Gone when the rest of a list is no longer to be had", async () => {
  const { fetch } = answers(
    json({ metadata: { continue: "more", resourceVersion: "5" }, items: [named("a")] }),
    json({ code: 410, reason: "Expired", message: "too old" }, 410),
  );
  await assertRejects(() => kubeWith(fetch).list(path, () => {}), Gone, "too old");
});

Deno.test("Kube.list() takes nothing for an empty list that is none, and gives no version that a watch would skip from", async () => {
  const bad = [{}, { metadata: { resourceVersion: "5" } }, { metadata: {}, items: [] }, {
    metadata: { resourceVersion: "0" },
    items: [],
  }];
  for (const body of bad) {
    await assertRejects(() => kubeWith(answers(json(body)).fetch).list(path, () => {}), Unreachable, "no list");
  }
  const cutOff = new Response('{"metadata":{"resourceVersion":"5"},"items":[');
  await assertRejects(() => kubeWith(answers(cutOff).fetch).list(path, () => {}), Unreachable, "cannot be reached");
});

Deno.test("Kube sends methods, bodies, their types and headers that authenticate", async () => {
  const { fetch, inits } = answers(json({}), json({}), json({}));
  const kube = kubeWith(fetch);
  await kube.create(path, { a: 1 });
  await kube.replace(`${path}/a`, { a: 2 });
  await kube.patch(`${path}/a`, { a: 3 });
  assertEquals(inits.map(({ method, body }) => [method, body]), [
    ["POST", '{"a":1}'],
    ["PUT", '{"a":2}'],
    ["PATCH", '{"a":3}'],
  ]);
  assertEquals(inits.map(({ headers }) => headers as Record<string, string>), [
    { authorization: "Bearer t", "content-type": "application/json" },
    { authorization: "Bearer t", "content-type": "application/json" },
    { authorization: "Bearer t", "content-type": "application/merge-patch+json" },
  ]);
});

Deno.test("Kube gives up at its deadline, and with the caller", async () => {
  await assertRejects(() => kubeWith(silent, { deadline: 1 }).get(path), TimedOut, "no answer within");
  const caller = new AbortController();
  const got = kubeWith(silent).get(path, { signal: caller.signal });
  caller.abort();
  await assertRejects(() => got, Cancelled);
  const stuck: Fetch = (_url, { signal }) => {
    const stream = new ReadableStream({
      start: (c) => signal?.addEventListener("abort", () => c.error(signal.reason)),
    });
    return Promise.resolve(new Response(stream));
  };
  await assertRejects(() => kubeWith(stuck, { deadline: 1 }).get(path), TimedOut);
});

Deno.test("Kube asks nothing for a caller who has gone", async () => {
  const { fetch, asked } = answers();
  await assertRejects(() => kubeWith(fetch).get(path, { signal: AbortSignal.abort() }), Cancelled);
  assertEquals(asked, []);
});

Deno.test("Kube calls a cut connection, and credentials that cannot be read, Unreachable", async () => {
  await assertRejects(() => kubeWith(answers(new TypeError("reset")).fetch).get(path), Unreachable, "reset");
  const headers = () => Promise.reject(new Error("no token file"));
  const kube = new Kube({ server: "https://api", namespace: "ns", headers, fetch: silent, deadline: 1000 });
  await assertRejects(() => kube.get(path), Unreachable, "no token file");
});

Deno.test("kubeError() has one class for each kind of no, and never takes a stranger's 404 for an absence", () => {
  const table: [number, string, new (...args: never[]) => Error][] = [
    [400, "BadRequest", InvalidArgument],
    [401, "Unauthorized", FailedPrecondition],
    [403, "Forbidden", Forbidden],
    [404, "NotFound", NotFound],
    [404, "", Unreachable],
    [409, "AlreadyExists", AlreadyExists],
    [409, "Conflict", Conflict],
    [410, "Expired", Gone],
    [422, "Invalid", InvalidArgument],
    [429, "TooManyRequests", Unreachable],
    [500, "InternalError", Unreachable],
    [503, "", Unreachable],
    [504, "Timeout", Unreachable],
  ];
  for (const [code, reason, expected] of table) {
    const error = kubeError("get a thing", { code, reason, message: "said" });
    assertInstanceOf(error, expected, `${code} ${reason}`);
    assert(error.message.startsWith(`Kubernetes refused to get a thing: ${code} said`), error.message);
  }
});

Deno.test("Kube tells a namespace that is being deleted from a missing permission", async () => {
  const details = { causes: [{ reason: "NamespaceTerminating" }] };
  const ending = json({ code: 403, reason: "Forbidden", message: "it is being terminated", details }, 403);
  await assertRejects(() => kubeWith(answers(ending).fetch).create(path, {}), NamespaceEnding);
});

Deno.test("Kube.watch() gives changes and bookmarks, from the version named", async () => {
  const { fetch, asked } = answers(
    lines({ type: "ADDED", object: named("a") }, { type: "BOOKMARK", object: named("") }),
  );
  const seen: string[] = [];
  const { signal } = new AbortController();
  for await (const { type } of kubeWith(fetch).watch(path, { resourceVersion: "7", signal })) seen.push(type);
  assertEquals(seen, ["ADDED", "BOOKMARK"]);
  assertEquals(asked[0]?.search, "?watch=true&allowWatchBookmarks=true&resourceVersion=7");
});

Deno.test("Kube.watch() throws what an ERROR event says, and Unreachable for a line cut off", async () => {
  await assertRejects(() => watchOf(json({ code: 410, reason: "Expired" }, 410)), Gone);
  await assertRejects(() => watchOf(lines({ type: "ERROR", object: { code: 410, reason: "Expired" } })), Gone);
  await assertRejects(
    () => watchOf(lines({ type: "ERROR", object: { code: 500, message: "etcd" } })),
    Unreachable,
    "etcd",
  );
  await assertRejects(() => watchOf(new Response('{"type":"ADDED","object":{"meta')), Unreachable);
});

Deno.test("Kube.watch() streams from a real server, beyond its deadline for the head, until the caller leaves", async () => {
  const deadline = 400;
  const left = Promise.withResolvers<void>();
  const send = Promise.withResolvers<void>();
  const handler = () => {
    const encoder = new TextEncoder();
    const line = (name: string) => encoder.encode(JSON.stringify({ type: "ADDED", object: named(name) }) + "\n");
    const body = new ReadableStream({
      async start(controller) {
        controller.enqueue(line("é1").slice(0, 47));
        controller.enqueue(line("é1").slice(47));
        await send.promise;
        controller.enqueue(line("2"));
      },
      cancel: () => left.resolve(),
    });
    return new Response(body);
  };
  await using server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen: () => {} }, handler);
  const client = Deno.createHttpClient({ http2: false });
  const kube = kubeWith((url, init) => fetch(url, { ...init, client }), {
    server: `http://127.0.0.1:${server.addr.port}`,
    deadline,
  });
  const caller = new AbortController();
  const seen: string[] = [];
  const watching = (async () => {
    for await (const { object } of kube.watch(path, { resourceVersion: "7", signal: caller.signal })) {
      seen.push(object.metadata.name);
      if (seen.length === 1) setTimeout(send.resolve, deadline + 50);
      if (seen.length === 2) caller.abort();
    }
  })();
  await assertRejects(() => watching, Cancelled);
  assertEquals(seen, ["é1", "2"]);
  await left.promise;
  client.close();
});
