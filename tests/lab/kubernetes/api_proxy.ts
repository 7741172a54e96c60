import { pause } from "../../../src/runtime/deadline.ts";
import { TcpGate } from "../tcp_gate.ts";
import { errorEvent, reasons, statusAnswer } from "./api_status.ts";
import { WatchStreams } from "./watch_streams.ts";

/** Between whom it stands. */
export interface ApiProxyOptions {
  /** The API server: `https://127.0.0.1:6443`. */
  target: string;
  /** Certificates that the API server is known by, PEM. */
  ca?: string;
  /** What the proxy itself shows, PEM; without it, it speaks plain HTTP. */
  tls?: { cert: string; key: string };
}

/** Which requests: the path has no query in it. */
export type Match = (method: string, path: string) => boolean;

/** An answer that the API server has not given. */
export interface FalseAnswer {
  /** Default: what Kubernetes says with this status. */
  reason?: string;
  /** How often; once by default. */
  times?: number;
  /** Default: the next requests, whatever they are. */
  match?: Match;
  /** The request does its work, and only its answer is lost. */
  afterwards?: boolean;
}

interface Fault extends Required<FalseAnswer> {
  status: number;
}

/** Stands between a client and the API server and makes trouble on demand. Letting it go ends it. */
export class ApiProxy implements AsyncDisposable {
  readonly url: string;
  readonly #options: ApiProxyOptions;
  readonly #http: Deno.HttpClient;
  readonly #server: Deno.HttpServer<Deno.NetAddr>;
  readonly #gate: TcpGate;
  readonly #ended = new AbortController();
  readonly #watches = new WatchStreams();
  readonly #counts = new Map<string, number>();
  readonly #faults: Fault[] = [];
  #slow = 0;

  constructor(options: ApiProxyOptions) {
    this.#options = options;
    this.#http = Deno.createHttpClient(options.ca ? { caCerts: [options.ca] } : {});
    const listen = { hostname: "127.0.0.1", port: 0, onListen: () => {}, ...options.tls };
    this.#server = Deno.serve(listen, (request) => this.#answer(request));
    this.#gate = new TcpGate(this.#server.addr.port);
    this.url = `${options.tls ? "https" : "http"}://127.0.0.1:${this.#gate.port}`;
  }

  /** Cuts all connections and refuses new ones for so many milliseconds. Resolves when it is back. */
  async away(milliseconds: number): Promise<void> {
    await this.cut();
    await pause(milliseconds, this.#ended.signal).catch(() => {});
    if (!this.#ended.signal.aborted) this.restore();
  }

  /** Cuts all connections and refuses new ones until {@linkcode restore}. */
  cut(): Promise<void> {
    return this.#gate.close();
  }

  /** Lets connections through again. */
  restore(): void {
    this.#gate.open();
  }

  /** Lets every answer come so many milliseconds later, from now on; what a running watch tells comes at once. */
  slow(milliseconds: number): void {
    this.#slow = milliseconds;
  }

  /** Gives the next requests this answer. To a request for a watch, 410 is an event in it, as from the real server. */
  answer(status: number, answer: FalseAnswer = {}): void {
    const whole = { reason: reasons[status] ?? "", times: 1, match: () => true, afterwards: false };
    this.#faults.push({ ...whole, ...answer, status });
  }

  /** Tells the running watches that their version is too old (410 Gone) and ends them. @returns how many there were */
  expireWatches(match: Match = () => true): number {
    return this.#watches.end(errorEvent(410), (path) => match("GET", path));
  }

  /** Lets watches carry nothing: those that run stay open, those that come are accepted. Nothing is lost. */
  freezeWatches(): void {
    this.#watches.freeze();
  }

  /** Lets watches tell what they have held back, and go on. */
  thaw(): void {
    this.#watches.thaw();
  }

  /** Forgets the answers that have not been given yet, is quick again, and thaws. */
  behave(): void {
    this.#faults.length = 0;
    this.#slow = 0;
    this.thaw();
  }

  /** False answers that have not been given yet. */
  get waiting(): number {
    return this.#faults.reduce((sum, { times }) => sum + times, 0);
  }

  /** How many requests came. @param path what a path must match; requests for a watch count as method `WATCH` */
  count(method?: string, path = /^/): number {
    let sum = 0;
    for (const [request, count] of this.#counts) {
      const [its = "", ...rest] = request.split(" ");
      if ((!method || its === method) && path.test(rest.join(" "))) sum += count;
    }
    return sum;
  }

  /** Begins to count anew. */
  resetCounts(): void {
    this.#counts.clear();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ended.abort();
    this.behave();
    await this.#gate.close();
    await this.#server.shutdown();
    this.#http.close();
  }

  async #answer(request: Request): Promise<Response> {
    const { pathname, search, searchParams } = new URL(request.url);
    const isWatch = /^(1|true)$/.test(searchParams.get("watch") ?? "");
    const counted = `${isWatch ? "WATCH" : request.method} ${pathname}`;
    this.#counts.set(counted, (this.#counts.get(counted) ?? 0) + 1);
    if (this.#slow > 0) await pause(this.#slow, this.#ended.signal).catch(() => {});
    const fault = this.#take(request.method, pathname);
    if (fault && !fault.afterwards) return falseAnswer(fault, isWatch);
    try {
      const answer = await this.#forward(request, pathname + search);
      if (!fault) return isWatch && answer.ok ? this.#watched(answer, pathname) : answer;
      await answer.body?.cancel();
      return falseAnswer(fault, isWatch);
    } catch {
      return statusAnswer(502, "BadGateway", "the API server did not answer the proxy");
    }
  }

  async #forward(request: Request, path: string): Promise<Response> {
    const headers = new Headers(request.headers);
    for (const name of ["host", "connection", "content-length"]) headers.delete(name);
    // Compression would hold back the lines of a watch.
    headers.set("accept-encoding", "identity");
    const body = request.body ? await request.arrayBuffer() : null;
    const { method } = request;
    const answer = await fetch(this.#options.target + path, { method, headers, body, client: this.#http });
    const answered = new Headers(answer.headers);
    answered.set("cache-control", "no-cache, private, no-transform");
    return new Response(answer.body, { status: answer.status, headers: answered });
  }

  #watched({ body, headers }: Response, path: string): Response {
    return new Response(body && this.#watches.through(body, path), { headers });
  }

  #take(method: string, path: string): Fault | undefined {
    const at = this.#faults.findIndex(({ match }) => match(method, path));
    const fault = this.#faults[at];
    if (fault && --fault.times <= 0) this.#faults.splice(at, 1);
    return fault;
  }
}

function falseAnswer({ status, reason }: Fault, isWatch: boolean): Response {
  if (isWatch && status === 410) return new Response(errorEvent(410));
  return statusAnswer(status, reason, "this answer belongs to a test");
}
