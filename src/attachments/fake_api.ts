/** A Kubernetes API in memory for tests: a log with resource versions, and clients whose watches a test can hold back. */
import type { KubeObject, RequestOptions, WatchEvent } from "../kube/client.ts";
import { Conflict, Gone } from "../kube/errors.ts";
import { reasonOf } from "../runtime/deadline.ts";
import { NotFound, Unreachable } from "../runtime/errors.ts";

export const ATTACHMENTS = "/apis/storage.k8s.io/v1/volumeattachments";
export const PVS = "/api/v1/persistentvolumes";
export const NODES = "/api/v1/nodes";

interface Entry {
  version: number;
  list: string;
  event: WatchEvent<KubeObject>;
}

/** The objects, and everything that ever happened to them. */
export class FakeApi {
  readonly objects = new Map<string, KubeObject>();
  readonly log: Entry[] = [];
  readonly clients = new Set<FakeKube>();
  /** Watches from before this version are Gone. */
  oldest = 0;
  version = 1;

  /** Makes or changes an object. */
  put<T extends KubeObject>(list: string, object: T): T {
    const path = `${list}/${object.metadata.name}`;
    const type = this.objects.has(path) ? "MODIFIED" : "ADDED";
    const written = structuredClone(object);
    written.metadata.resourceVersion = String(++this.version);
    this.objects.set(path, written);
    this.#note(list, { type, object: written });
    return written;
  }

  find<T extends KubeObject>(list: string, name: string): T | undefined {
    return this.objects.get(`${list}/${name}`) as T | undefined;
  }

  remove(list: string, name: string): void {
    const last = this.find(list, name);
    if (!last) return;
    this.objects.delete(`${list}/${name}`);
    const metadata = { ...last.metadata, resourceVersion: String(++this.version) };
    this.#note(list, { type: "DELETED", object: { ...last, metadata } });
  }

  /** Changes an object that is there. */
  change<T extends KubeObject>(list: string, name: string, change: (object: T) => void): void {
    const object = structuredClone(this.find<T>(list, name));
    if (!object) throw new Error(`there is no ${list}/${name}`);
    change(object);
    this.put(list, object);
  }

  all(list: string): KubeObject[] {
    return [...this.objects].flatMap(([path, object]) => path.startsWith(`${list}/`) ? [object] : []);
  }

  /** The log up to now is no longer to be had: watches that begin before it are told so. */
  compact(): void {
    this.oldest = this.version;
  }

  #note(list: string, event: WatchEvent<KubeObject>): void {
    this.log.push({ version: this.version, list, event });
    for (const client of this.clients) client.wake();
  }
}

/** One client of it, as the driver uses `Kube`. */
export class FakeKube {
  readonly namespace = "rds-csi";
  readonly api: FakeApi;
  /** What was asked, like `GET /api/v1/nodes/a`. */
  readonly asked: string[] = [];
  /** Called before each request: throw to have it fail, wait to have it take its time. */
  before: (verb: string, path: string) => Promise<void> | void = () => {};
  /** Called after a request took effect: throw to have its answer lost. */
  after: (verb: string, path: string) => Promise<void> | void = () => {};
  /** Watches show nothing later than this. */
  shown = Infinity;
  #waiting = new Set<() => void>();
  #cuts = 0;
  #bookmarks = 0;

  constructor(api: FakeApi) {
    this.api = api;
    api.clients.add(this);
  }

  /** Its watches show nothing new from now on, until {@linkcode FakeKube.resume}. */
  hold(): void {
    this.shown = this.api.version;
  }

  /** Its watches show what happened, or so many versions more of it. */
  resume(versions = Infinity): void {
    this.shown += versions;
    if (this.shown >= this.api.version) this.shown = Infinity;
    this.wake();
  }

  /** Its watches are cut off. */
  cut(): void {
    this.#cuts++;
    this.wake();
  }

  /** Its watches get a sign of life. */
  bookmark(): void {
    this.#bookmarks++;
    this.wake();
  }

  wake(): void {
    for (const waiting of this.#waiting) waiting();
    this.#waiting.clear();
  }

  async get<T extends KubeObject>(path: string, options: RequestOptions = {}): Promise<T> {
    await this.#ask("GET", path, options);
    const object = this.api.objects.get(path);
    if (!object) throw new NotFound(`Kubernetes refused to GET ${path}: 404 not found`);
    await this.after("GET", path);
    return structuredClone(object) as T;
  }

  async patch<T extends KubeObject>(path: string, change: object, options: RequestOptions = {}): Promise<T> {
    await this.#ask("PATCH", path, options);
    const object = this.api.objects.get(path);
    if (!object) throw new NotFound(`Kubernetes refused to PATCH ${path}: 404 not found`);
    const { resourceVersion } = (change as KubeObject).metadata;
    if (resourceVersion && resourceVersion !== object.metadata.resourceVersion) {
      throw new Conflict(`Kubernetes refused to PATCH ${path}: 409; try again`);
    }
    const written = this.api.put(path.slice(0, path.lastIndexOf("/")), merge(object, change) as KubeObject);
    await this.after("PATCH", path);
    return structuredClone(written) as T;
  }

  async list<T extends KubeObject>(
    path: string,
    each: (object: T) => void,
    options: RequestOptions = {},
  ): Promise<string> {
    await this.#ask("LIST", path, options);
    const { version } = this.api;
    const objects = this.api.all(path);
    await this.after("LIST", path);
    for (const object of objects) each(object as T);
    return String(version);
  }

  async *watch<T extends KubeObject>(
    path: string,
    options: RequestOptions & { resourceVersion: string; signal: AbortSignal },
  ): AsyncGenerator<WatchEvent<T>> {
    const { signal } = options;
    await this.#ask("WATCH", path, options);
    let at = Number(options.resourceVersion);
    if (at < this.api.oldest) throw new Gone(`Kubernetes refused to watch ${path}: 410 too old`);
    const [cuts, { log }] = [this.#cuts, this.api];
    let index = log.findIndex(({ version }) => version > at);
    if (index < 0) index = log.length;
    for (let bookmarks = this.#bookmarks;;) {
      if (signal.aborted) throw reasonOf(signal);
      if (this.#cuts !== cuts) throw new Unreachable("the watch was cut off; try again");
      const entry = log[index];
      if (entry && entry.version <= this.shown) {
        index++;
        at = entry.version;
        if (entry.list === path) yield entry.event as WatchEvent<T>;
      } else if (bookmarks !== this.#bookmarks) {
        bookmarks = this.#bookmarks;
        yield { type: "BOOKMARK", object: { metadata: { name: "", resourceVersion: String(at) } } as T };
      } else await this.#news(signal);
    }
  }

  async #ask(verb: string, path: string, { signal }: RequestOptions): Promise<void> {
    this.asked.push(`${verb} ${path}`);
    if (signal?.aborted) throw reasonOf(signal);
    await this.before(verb, path);
    if (signal?.aborted) throw reasonOf(signal);
  }

  async #news(signal: AbortSignal): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#waiting.add(resolve);
    signal.addEventListener("abort", () => resolve(), { once: true });
    await promise;
    this.#waiting.delete(resolve);
  }
}

/** A merge patch (RFC 7386). */
function merge(target: unknown, change: unknown): unknown {
  if (typeof change !== "object" || change === null || Array.isArray(change)) return change;
  const merged: Record<string, unknown> = { ...(typeof target === "object" ? target : {}) };
  for (const [key, value] of Object.entries(change)) {
    if (value === null) delete merged[key];
    else merged[key] = merge(merged[key], value);
  }
  return merged;
}
