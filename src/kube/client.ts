import { abortable, Deadline, reasonOf } from "../runtime/deadline.ts";
import { DriverError, messageOf, Unreachable } from "../runtime/errors.ts";
import { TextLineStream } from "../runtime/lines.ts";
import { kubeError, type Status } from "./errors.ts";

/** What every object has (meta/v1, ObjectMeta): the part of it that is used. */
export interface KubeObject {
  metadata: {
    name: string;
    namespace?: string;
    uid?: string;
    resourceVersion?: string;
    creationTimestamp?: string;
    deletionTimestamp?: string;
    annotations?: Record<string, string>;
    labels?: Record<string, string>;
    ownerReferences?: { kind: string; name: string; uid: string; apiVersion: string }[];
  };
}

/** One line of a watch. */
export interface WatchEvent<T> {
  type: "ADDED" | "MODIFIED" | "DELETED" | "BOOKMARK";
  object: T;
}

/** How one request is made. */
export interface RequestOptions {
  signal?: AbortSignal | undefined;
  query?: Readonly<Record<string, string>>;
  /** Asks for the objects' metadata alone: what else they have stays on the server. */
  metadataOnly?: boolean;
}

/** What a client talks through: so that tests need no server. */
export type Fetch = (url: string, init: RequestInit) => Promise<Response>;

/** Settings of {@linkcode Kube}. */
export interface KubeOptions {
  server: string;
  /** The namespace that the driver's own objects lie in. */
  namespace: string;
  /** Headers that authenticate, made anew for each request: tokens are renewed on disk. */
  headers: () => Promise<Record<string, string>>;
  fetch: Fetch;
  /** Milliseconds for each request. */
  deadline: number;
}

/** Objects in one page of a list. */
const PAGE = 500;
/** A list of metadata (Kubernetes API concepts, "Metadata-only fetches"). */
const METADATA = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";

/** The Kubernetes API: paths in, JSON out. Every request has a deadline and the caller's cancellation. */
export class Kube {
  readonly namespace: string;
  readonly #options: KubeOptions;

  constructor(options: KubeOptions) {
    this.#options = options;
    this.namespace = options.namespace;
  }

  /** @throws {NotFound} when the server says that there is none; see {@linkcode kubeError} for the rest */
  async get<T extends KubeObject>(path: string, options: RequestOptions = {}): Promise<T> {
    return await this.#json("GET", path, options) as T;
  }

  async create<T extends KubeObject>(path: string, object: object, options: RequestOptions = {}): Promise<T> {
    return await this.#json("POST", path, { ...options, body: object }) as T;
  }

  /** Replaces an object. @throws {Conflict} when its resourceVersion is not the present one */
  async replace<T extends KubeObject>(path: string, object: object, options: RequestOptions = {}): Promise<T> {
    return await this.#json("PUT", path, { ...options, body: object }) as T;
  }

  /** Changes an object by a merge patch (RFC 7386). With metadata.resourceVersion in it: {@linkcode Conflict} if it moved. */
  async patch<T extends KubeObject>(path: string, change: object, options: RequestOptions = {}): Promise<T> {
    return await this.#json("PATCH", path, { ...options, body: change, type: "application/merge-patch+json" }) as T;
  }

  /**
   * All objects, as they are now (a quorum read), page by page.
   * @param each gets every object; what it does not keep is not held in memory
   * @returns the resource version to watch from
   * @throws {Gone} when the rest of a list is no longer to be had: what `each` got is then no whole
   */
  async list<T extends KubeObject>(
    path: string,
    each: (object: T) => void,
    options: RequestOptions = {},
  ): Promise<string> {
    for (let rest = "";;) {
      const query = { ...options.query, limit: String(PAGE), ...(rest === "" ? {} : { continue: rest }) };
      const page = await this.#json("GET", path, { ...options, query }) as {
        metadata?: { continue?: string; resourceVersion?: string };
        items?: T[] | null;
      };
      // What is no list must not be read as an empty one; and a watch from "" or "0" would skip what lies between.
      const version = page.metadata?.resourceVersion;
      if (page.items === undefined || !version || version === "0") {
        throw broken(`list ${path}`, "the answer is no list");
      }
      for (const object of page.items ?? []) each(object);
      rest = page.metadata?.continue ?? "";
      if (rest === "") return version;
    }
  }

  /**
   * What changes from a resource version on, bookmarks included. Ends when the server ends it.
   * @throws {Gone} when that version is too old
   */
  async *watch<T extends KubeObject>(
    path: string,
    options: RequestOptions & { resourceVersion: string; signal: AbortSignal },
  ): AsyncGenerator<WatchEvent<T>> {
    const { resourceVersion, signal } = options;
    const query = { ...options.query, watch: "true", allowWatchBookmarks: "true", resourceVersion };
    // The deadline is for the head of the answer only: the body goes on for as long as it likes.
    using head = new Deadline(this.#options.deadline, `Kubernetes to ${path}`, signal);
    const { body } = await this.#request("GET", path, { query, signal: head.signal });
    head.lift();
    if (!body) return;
    const text = body.pipeThrough(new TextDecoderStream() as TransformStream<Uint8Array<ArrayBuffer>, string>);
    const lines = text.pipeThrough(new TextLineStream()).getReader();
    try {
      // Raced: Deno 2.9.6 does not always end the body of a fetch whose signal aborts (seen after a garbage collection).
      for (let read; !(read = await abortable(lines.read(), signal)).done;) yield eventOf<T>(read.value, path);
    } catch (error) {
      if (signal.aborted) throw reasonOf(signal);
      throw error instanceof DriverError ? error : broken(path, error);
    } finally {
      lines.cancel().catch(() => {});
    }
  }

  async #json(method: string, path: string, options: RequestOptions & { body?: object; type?: string }) {
    using deadline = new Deadline(this.#options.deadline, `Kubernetes to ${method} ${path}`, options.signal);
    const response = await this.#request(method, path, { ...options, signal: deadline.signal });
    try {
      return await abortable(response.json(), deadline.signal);
    } catch (error) {
      if (deadline.signal.aborted) throw reasonOf(deadline.signal);
      throw broken(`${method} ${path}`, error);
    }
  }

  async #request(
    method: string,
    path: string,
    options: RequestOptions & { signal: AbortSignal; body?: object; type?: string },
  ): Promise<Response> {
    const { signal, body, query, type = "application/json", metadataOnly } = options;
    const url = `${this.#options.server}${path}${query ? `?${new URLSearchParams(query)}` : ""}`;
    try {
      signal.throwIfAborted();
      const headers = {
        ...await abortable(this.#options.headers(), signal),
        ...(body ? { "content-type": type } : {}),
        ...(metadataOnly ? { accept: METADATA } : {}),
      };
      const init = {
        method,
        headers,
        signal,
        ...(body ? { body: JSON.stringify(body) } : {}),
      };
      const response = await this.#options.fetch(url, init);
      if (response.ok) return response;
      throw kubeError(`${method} ${path}`, { code: response.status, ...await abortable(statusOf(response), signal) });
    } catch (error) {
      if (signal.aborted) throw reasonOf(signal);
      throw error instanceof DriverError ? error : broken(`${method} ${path}`, error);
    }
  }
}

/** @throws {Gone} and its like for what the server says went wrong; what is cut off in the middle is {@linkcode Unreachable} */
function eventOf<T>(line: string, path: string): WatchEvent<T> {
  const { type, object } = JSON.parse(line) as { type: WatchEvent<T>["type"] | "ERROR"; object: T & Status };
  if (type === "ERROR") throw kubeError(`watch ${path}`, object);
  return { type, object };
}

function broken(what: string, cause: unknown): Unreachable {
  return new Unreachable(`the Kubernetes API cannot be reached (${what}): ${messageOf(cause)}; try again`, { cause });
}

async function statusOf(response: Response): Promise<Status> {
  const text = await response.text();
  try {
    const { reason, message, details } = JSON.parse(text) as Status;
    return { ...(reason ? { reason } : {}), ...(message ? { message } : {}), ...(details ? { details } : {}) };
  } catch {
    return { message: text.slice(0, 300) };
  }
}
