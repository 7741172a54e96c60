import { abortable, Deadline, pause, poll, throwIfAborted } from "../runtime/deadline.ts";
import { DriverError, messageOf, Unreachable } from "../runtime/errors.ts";
import { log } from "../runtime/log.ts";
import type { ControllerMetrics } from "../runtime/controller_metrics.ts";
import { routerOsError } from "./errors.ts";
import { type Script } from "./script.ts";
import type { Transport } from "./ssh.ts";

/** One script to run. */
export interface Job {
  /** For logs, metrics and messages: "create volume pvc-…". */
  doing: string;
  /** The metric's label: create, delete, get … */
  kind: string;
  /** Makes the script at the moment when it is sent, so that reads that wait can be merged until then. */
  script: () => Script;
  /** Milliseconds from sending to the whole answer. */
  deadline: number;
  signal?: AbortSignal | undefined;
}

/** Settings of a {@linkcode Connection}. */
export interface ConnectionOptions {
  /** Logs in, checks the server and resolves when it is fit for use. */
  connect: (signal: AbortSignal) => Promise<Transport>;
  /** What the login depends on: when it changes, the connection is made anew, once what runs on it has ended. */
  login?: () => Promise<string>;
  /** Milliseconds between two looks at it; 30 s by default. */
  loginInterval?: number;
  metrics?: Pick<ControllerMetrics, "sshCommands" | "sshDuration" | "sshConnects">;
  /** Milliseconds for one attempt to connect; 15 s by default. */
  connectDeadline?: number;
  /** Milliseconds that a script may wait for a channel; 30 s by default. */
  queueDeadline?: number;
  /** Between 0 and 1, for the jitter of the backoff. */
  random?: () => number;
}

/** Channels at once: RouterOS hung with some 19 (`/ip/service max-sessions` is 20), four leave room for people. */
const CHANNELS = 4;
const QUEUE_LIMIT = 1000;
const BACKOFF = { first: 500, last: 30_000 };
const CHECK_DEADLINE = 10_000;

/** A script was sent and its answer did not come: whether it had an effect is not known. `cause` tells what happened. */
export class AnswerLost extends Error {
  override readonly name = "AnswerLost";
  constructor(override readonly cause: DriverError) {
    super(cause.message);
  }
}

/**
 * The connection to RouterOS: keeps itself up (backoff 0.5 to 30 s with full jitter), runs at most four scripts at once
 * and the rest in order. After an answer that did not come in time it asks whether the server is still there, since a
 * reboot leaves a half-open connection that nothing else finds out about.
 */
export class Connection {
  readonly #options: ConnectionOptions;
  readonly #stop = new AbortController();
  readonly #waiting: (() => void)[] = [];
  #channels = 0;
  #sent = 0;
  #wasOfUse = false;
  #transport: Transport | undefined;
  #checking: Promise<void> | undefined;
  #attempt = Promise.withResolvers<void>();
  #lastError: Error | undefined;

  constructor(options: ConnectionOptions) {
    this.#options = options;
  }

  /** Scripts that wait for a channel. */
  get queueLength(): number {
    return this.#waiting.length;
  }
  get connected(): boolean {
    return this.#transport !== undefined;
  }

  /** Connects and keeps connected until {@linkcode close}. Returns at once: RouterOS may be away. */
  start(): void {
    this.#keepConnected().catch((error) => log.error("the loop that keeps RouterOS connected ended", { error }));
  }

  close(): void {
    this.#stop.abort();
    this.#lastError = new Unreachable("the driver is shutting down; try again");
    this.#attempt.resolve();
    this.#transport?.close();
  }

  /**
   * Runs a script and resolves to what it printed before its sentinel.
   * @throws {AnswerLost} when it was sent and no whole answer came
   * @throws {Unreachable} (or another {@linkcode DriverError}) when it was never sent
   * @throws what {@linkcode routerOsError} makes of the text when RouterOS refused or failed
   */
  async run(job: Job): Promise<string> {
    throwIfAborted(job.signal);
    await this.#takeChannel(job);
    try {
      const transport = await this.#ready(job.signal);
      return await this.#send(transport, job);
    } finally {
      this.#releaseChannel();
    }
  }

  async #send(transport: Transport, job: Job): Promise<string> {
    const nonce = crypto.randomUUID().slice(0, 8);
    const line = `${job.script().text}; :put "ok-${nonce}"`;
    const started = performance.now();
    using deadline = new Deadline(job.deadline, `RouterOS (${job.doing})`, job.signal);
    let result = "lost";
    this.#sent++;
    try {
      const text = await transport.exec(line, deadline.signal);
      result = "error";
      this.#wasOfUse = true;
      const answer = withoutSentinel(text, `ok-${nonce}`);
      if (answer === undefined) throw routerOsError(text, job.doing);
      result = "ok";
      return answer;
    } catch (error) {
      if (result !== "lost") throw error;
      // A caller who leaves says nothing about the server.
      if (deadline.signal.aborted && !job.signal?.aborted) this.#checking ??= this.#check(transport);
      throw new AnswerLost(error instanceof DriverError ? error : new Unreachable(messageOf(error), { cause: error }));
    } finally {
      this.#sent--;
      this.#options.metrics?.sshCommands.inc({ kind: job.kind, result });
      this.#options.metrics?.sshDuration.observe({ kind: job.kind }, (performance.now() - started) / 1000);
    }
  }

  async #takeChannel(job: Job): Promise<void> {
    if (this.#channels >= CHANNELS) return await this.#queue(job);
    this.#channels++;
  }

  /** Hands the channel to whoever waits longest. */
  #releaseChannel(): void {
    const next = this.#waiting.shift();
    if (next) next();
    else this.#channels--;
  }

  async #queue(job: Job): Promise<void> {
    if (this.#waiting.length >= QUEUE_LIMIT) {
      throw new Unreachable(
        `${QUEUE_LIMIT} requests wait for RouterOS already: '${job.doing}' was not sent; try again`,
      );
    }
    const turn = Promise.withResolvers<void>();
    this.#waiting.push(turn.resolve);
    using deadline = new Deadline(this.#options.queueDeadline ?? 30_000, "the queue to RouterOS", job.signal);
    try {
      await abortable(turn.promise, deadline.signal);
    } catch (error) {
      const at = this.#waiting.indexOf(turn.resolve);
      if (at >= 0) this.#waiting.splice(at, 1);
      else this.#releaseChannel();
      throw error;
    }
  }

  /** The transport, once it stands and is not in doubt. Waits for an attempt under way, fails fast between attempts. */
  async #ready(signal?: AbortSignal): Promise<Transport> {
    await abortable(this.#checking ?? Promise.resolve(), signal);
    if (!this.#transport && !this.#lastError) {
      using deadline = new Deadline(this.#options.queueDeadline ?? 30_000, "the connection to RouterOS", signal);
      await abortable(this.#attempt.promise, deadline.signal);
    }
    if (this.#transport) return this.#transport;
    throw this.#lastError ?? new Unreachable("RouterOS is not connected; try again");
  }

  /** After a lost answer: is the server still there? If not, the transport is closed, so that a new one is made. */
  async #check(transport: Transport): Promise<void> {
    using deadline = new Deadline(CHECK_DEADLINE, "RouterOS (is it still there?)", this.#stop.signal);
    try {
      await transport.exec(':put "here"', deadline.signal);
    } catch {
      if (this.#transport === transport) this.#transport = undefined;
      transport.close();
    } finally {
      this.#checking = undefined;
    }
  }

  async #keepConnected(): Promise<void> {
    const stop = this.#stop.signal;
    for (let failures = 0; !stop.aborted;) {
      try {
        const transport = await this.#connect(stop);
        this.#connected(transport);
        this.#watchLogin(transport).catch(() => {});
        await transport.closed;
        failures = this.#wasOfUse ? 0 : failures + 1;
        this.#disconnected(failures);
      } catch (error) {
        if (!stop.aborted) this.#failed(error as Error, failures++);
      }
      await pause(backoff(failures, (this.#options.random ?? Math.random)()), stop).catch(() => {});
      if (!stop.aborted) this.#lastError = undefined;
    }
  }

  /** Leaves the connection when the key files have changed: a key that was taken away must not be used on. */
  async #watchLogin(transport: Transport): Promise<void> {
    const { login, loginInterval = 30_000 } = this.#options;
    if (!login) return;
    const over = new AbortController();
    transport.closed.then(() => over.abort());
    const before = await login();
    while (await login() === before) await pause(loginInterval, over.signal);
    log.info("the key files have changed: logging in to RouterOS anew");
    if (this.#transport === transport) this.#transport = undefined;
    using deadline = new Deadline(60_000, "what still runs on the old connection", over.signal);
    await poll(() => this.#sent === 0 || undefined, { signal: deadline.signal }).catch(() => {});
    transport.close();
  }

  async #connect(stop: AbortSignal): Promise<Transport> {
    using deadline = new Deadline(this.#options.connectDeadline ?? 15_000, "RouterOS (connecting)", stop);
    return await this.#options.connect(deadline.signal);
  }

  #connected(transport: Transport): void {
    this.#transport = transport;
    this.#wasOfUse = false;
    this.#attempt.resolve();
    this.#options.metrics?.sshConnects.inc({ status: "success" });
    log.info("connected to RouterOS");
  }

  #disconnected(failures: number): void {
    if (this.#stop.signal.aborted) return;
    this.#transport = undefined;
    this.#attempt = Promise.withResolvers();
    if (failures > 1) this.#lastError = new Unreachable("RouterOS ends connections soon after it took them; try again");
    log[failures > 1 ? "debug" : "warn"]("the connection to RouterOS has ended; connecting again");
  }

  #failed(error: Error, failures: number): void {
    // Always Unreachable: an earlier change may still be at work there, so no caller may take this for a final answer.
    this.#lastError = error instanceof Unreachable ? error : new Unreachable(error.message, { cause: error });
    this.#attempt.resolve();
    this.#attempt = Promise.withResolvers();
    this.#options.metrics?.sshConnects.inc({ status: "failure" });
    const sentence = "cannot connect to RouterOS; trying again, with up to 30 s in between";
    if (failures === 0) log.warn(sentence, { error });
    else log.debug(sentence, { error, failures });
  }
}

/**
 * Milliseconds to wait after so many failures in a row: up to 1 s after the first, doubling up to 30 s, with full jitter.
 * @param random from 0 to 1
 */
export function backoff(failures: number, random: number): number {
  return failures === 0 ? 0 : Math.min(BACKOFF.last, BACKOFF.first * 2 ** failures) * random;
}

/** What stands before the sentinel line; undefined without one, which means that the script did not reach its end. */
export function withoutSentinel(text: string, sentinel: string): string | undefined {
  const lines = text.trimEnd().split(/\r?\n/);
  return lines.pop() === sentinel ? lines.join("\n") : undefined;
}
