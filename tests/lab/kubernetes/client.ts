import { abortable, Deadline, poll } from "../../../src/runtime/deadline.ts";
import { TextLineStream } from "../../../src/runtime/lines.ts";
import type { Kind, KubeObject, Ref } from "./objects.ts";

/** An answer of the API server that says no. */
export class KubeError extends Error {
  override name = "KubeError";
  /** HTTP status. */
  readonly status: number;
  /** `NotFound`, `Conflict`, `Forbidden` … */
  readonly reason: string;

  constructor(status: number, reason: string, message: string) {
    super(message);
    this.status = status;
    this.reason = reason;
  }
}

/** A change of an object, as a watch tells it. */
export interface Change<T extends KubeObject> {
  type: "ADDED" | "MODIFIED" | "DELETED";
  object: T;
}

/** Milliseconds for one request. */
const REQUEST = 30_000;
/** Milliseconds that {@linkcode KubeClient.until} waits where nothing else is said. */
const PATIENCE = 150_000;

/** Talks to an API server as one user. */
export class KubeClient implements Disposable {
  readonly #url: string;
  readonly #token: string;
  readonly #http: Deno.HttpClient;

  /** @param server.ca certificates that are trusted, PEM */
  constructor(server: { url: string; ca: string }, token: string) {
    this.#url = server.url;
    this.#token = token;
    this.#http = Deno.createHttpClient({ caCerts: [server.ca] });
  }

  /** @throws {KubeError} when the server says no */
  async get<T extends KubeObject>(kind: Kind<T>, ref: Ref): Promise<T> {
    return await this.#json("GET", pathOf(kind, ref)) as T;
  }

  /** The object, or undefined when the server says that there is none. */
  async find<T extends KubeObject>(kind: Kind<T>, ref: Ref): Promise<T | undefined> {
    try {
      return await this.get(kind, ref);
    } catch (error) {
      if (error instanceof KubeError && error.status === 404) return undefined;
      throw error;
    }
  }

  /** All of a kind, of one namespace or of all. */
  async list<T extends KubeObject>(kind: Kind<T>, namespace?: string): Promise<T[]> {
    return (await this.snapshot(kind, namespace)).items;
  }

  /** All of a kind, with the version of the whole that a watch goes on from. */
  async snapshot<T extends KubeObject>(kind: Kind<T>, namespace?: string): Promise<{ items: T[]; version: string }> {
    const { items, metadata } = await this.#json("GET", pathOf(kind, namespace ? { namespace } : {})) as {
      items: T[];
      metadata: { resourceVersion: string };
    };
    return { items, version: metadata.resourceVersion };
  }

  /**
   * Every change of a kind after a version, as they happen, until the server ends the watch, as it does now and then.
   * @throws {KubeError} status 410 when the server does not know so old a version any more
   */
  async *watch<T extends KubeObject>(
    kind: Kind<T>,
    options: { version: string; signal: AbortSignal },
  ): AsyncGenerator<Change<T>> {
    const path = `${pathOf(kind, {})}?watch=true&resourceVersion=${options.version}`;
    const answer = await this.#request("GET", path, undefined, undefined, options.signal);
    if (!answer.ok || !answer.body) throw kubeError(answer.status, `GET ${path}`, await answer.text());
    const lines = answer.body.pipeThrough(new TextDecoderStream()).pipeThrough(new TextLineStream()).getReader();
    try {
      // Raced: Deno 2.9.6 does not always end the body of a fetch whose signal aborts.
      for (let read; !(read = await abortable(lines.read(), options.signal)).done;) {
        const { type, object } = JSON.parse(read.value);
        if (type === "ERROR") throw kubeError(object.code, `watch of ${kind.plural}`, JSON.stringify(object));
        yield { type, object };
      }
    } finally {
      lines.cancel().catch(() => {});
    }
  }

  async create<T extends KubeObject>(kind: Kind<T>, object: T): Promise<T> {
    const { apiVersion, kind: name } = kind;
    const { namespace } = object.metadata;
    const path = pathOf(kind, namespace ? { namespace } : {});
    return await this.#json("POST", path, { apiVersion, kind: name, ...object }) as T;
  }

  /** Changes an object by a merge patch (RFC 7386), or the subresource of it that is named. */
  async patch<T extends KubeObject>(kind: Kind<T>, ref: Ref, change: object, subresource?: string): Promise<T> {
    const path = pathOf(kind, ref) + (subresource ? `/${subresource}` : "");
    return await this.#json("PATCH", path, change, "application/merge-patch+json") as T;
  }

  /** Asks for the deletion; finalizers may keep the object. One that is not there is fine. */
  async delete<T extends KubeObject>(kind: Kind<T>, ref: Ref): Promise<void> {
    try {
      await this.#json("DELETE", pathOf(kind, ref));
    } catch (error) {
      if (!(error instanceof KubeError && error.status === 404)) throw error;
    }
  }

  /**
   * Waits until an object is as it should be.
   * @throws with the object as it was seen last, when it never is
   */
  async until<T extends KubeObject>(
    kind: Kind<T>,
    ref: Ref,
    is: (object: T) => boolean,
    patience = PATIENCE,
  ): Promise<T> {
    let last: T | undefined;
    const what = `${kind.kind} ${ref.name} to be so that ${is}`;
    return await this.wait(what, async () => {
      last = await this.find(kind, ref);
      return last && is(last) ? last : undefined;
    }, { patience, seen: () => JSON.stringify(last, undefined, 1) });
  }

  /** Waits until an object is gone. @throws with what is left, when it stays */
  async gone<T extends KubeObject>(kind: Kind<T>, ref: Ref): Promise<void> {
    let last: T | undefined;
    await this.wait(`${kind.kind} ${ref.name} to go`, async () => {
      last = await this.find(kind, ref);
      return last ? undefined : true;
    }, { seen: () => JSON.stringify(last, undefined, 1) });
  }

  /** Waits until there is an answer. @throws when there never is, with what `seen` says */
  async wait<T>(
    what: string,
    answer: () => Promise<T | undefined> | T | undefined,
    options: { patience?: number; seen?: () => string } = {},
  ): Promise<T> {
    using deadline = new Deadline(options.patience ?? PATIENCE, what);
    try {
      return await poll(answer, { signal: deadline.signal, interval: 100 });
    } catch (error) {
      if (!deadline.signal.aborted) throw error;
      throw new Error(`it never came to pass: ${what}; seen last: ${options.seen?.()}`, { cause: error });
    }
  }

  /** Whether the server says on this path (`/readyz`) that all is well. */
  async isOk(path: string): Promise<boolean> {
    const { ok, body } = await this.#request("GET", path);
    await body?.cancel();
    return ok;
  }

  [Symbol.dispose](): void {
    this.#http.close();
  }

  async #json(method: string, path: string, body?: object, type = "application/json"): Promise<unknown> {
    const signal = AbortSignal.timeout(REQUEST);
    const answer = await this.#request(method, path, body, type, signal);
    const text = await abortable(answer.text(), signal);
    if (answer.ok) return JSON.parse(text);
    throw kubeError(answer.status, `${method} ${path}`, text);
  }

  #request(
    method: string,
    path: string,
    body?: object,
    type = "application/json",
    signal = AbortSignal.timeout(REQUEST),
  ): Promise<Response> {
    return fetch(this.#url + path, {
      method,
      client: this.#http,
      headers: { "authorization": `Bearer ${this.#token}`, ...(body ? { "content-type": type } : {}) },
      signal,
      ...(body ? { body: JSON.stringify(body) } : {}),
    });
  }
}

function kubeError(status: number, what: string, text: string): KubeError {
  const { reason, message }: { reason?: string; message?: string } = text.startsWith("{") ? JSON.parse(text) : {};
  return new KubeError(status, reason ?? "", `${what}: ${status} ${message ?? text}`);
}

function pathOf<T extends KubeObject>(kind: Kind<T>, ref: Partial<Ref>): string {
  const root = kind.apiVersion.includes("/") ? `/apis/${kind.apiVersion}` : `/api/${kind.apiVersion}`;
  const namespace = kind.namespaced && ref.namespace ? `/namespaces/${ref.namespace}` : "";
  return `${root}${namespace}/${kind.plural}${ref.name ? `/${encodeURIComponent(ref.name)}` : ""}`;
}
