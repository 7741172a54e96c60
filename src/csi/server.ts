import {
  create,
  type DescMethodUnary,
  type DescService,
  type MessageInitShape,
  type MessageShape,
} from "@bufbuild/protobuf";
import * as grpc from "@grpc/grpc-js";
import { pause } from "../runtime/deadline.ts";
import { Cancelled, TimedOut, Unreachable } from "../runtime/errors.ts";
import { KeyedLock } from "../runtime/keyed_lock.ts";
import { log } from "../runtime/log.ts";
import type { Metrics } from "../runtime/metrics.ts";
import {
  around,
  type CallContext,
  type Fields,
  type Handler,
  type Interceptor,
  logged,
  measured,
  oneAtATime,
} from "./interceptors.ts";
import { serviceDefinition } from "./rpc.ts";
import { clearSocketPath, shareWithGroup, withOwnerOnly } from "./socket.ts";
import { statusOf } from "./status.ts";

export type { CallContext } from "./interceptors.ts";

/** The handlers of a service; a method without one is UNIMPLEMENTED. */
export type Handlers<S extends DescService> = {
  [M in keyof S["method"]]?: S["method"][M] extends DescMethodUnary<infer I, infer O>
    ? (request: MessageShape<I>, call: CallContext) => Promise<MessageInitShape<O>>
    : never;
};

/** Settings of a {@linkcode CsiServer}. */
export interface ServerOptions {
  /** Path of the unix socket. */
  socket: string;
  /** A group that may use it besides its owner. */
  group?: number | undefined;
  metrics: Pick<Metrics, "grpcCalls" | "grpcDuration">;
  /** Guards volumes, by `keyOf`: shared with work that is done behind the calls. */
  lock?: KeyedLock;
}

/** CSI on a unix socket. Handlers know nothing of log, metrics, guards, deadlines and codes: that is done around them. */
export class CsiServer {
  readonly #options: ServerOptions;
  readonly #server = new grpc.Server();
  readonly #lock: KeyedLock;
  readonly #running = new Set<{ abort(why: Error): void; ended: Promise<void> }>();
  #requests = 0;
  #stopping = false;

  constructor(options: ServerOptions) {
    this.#options = options;
    this.#lock = options.lock ?? new KeyedLock();
  }

  add<S extends DescService>(service: S, handlers: Handlers<S>): void {
    const byName = handlers as Record<string, Handler | undefined>;
    const implementation: grpc.UntypedServiceImplementation = {};
    for (const method of service.methods) {
      const handler = byName[method.localName];
      if (handler) implementation[method.localName] = this.#serve(method as DescMethodUnary, handler);
    }
    this.#server.addService(serviceDefinition(service), implementation);
  }

  /** Binds the socket. @throws {FailedPrecondition} when it is taken or cannot be */
  async start(): Promise<void> {
    const { socket, group } = this.#options;
    await clearSocketPath(socket, group);
    await withOwnerOnly(() => this.#bind(socket));
    if (group !== undefined) await shareWithGroup(socket, { group, mode: 0o660 });
  }

  /**
   * New calls are refused, running ones may finish within `grace` milliseconds (also those whose caller has gone); then they
   * are aborted and have a second to end.
   */
  async stop(grace: number): Promise<void> {
    this.#stopping = true;
    const answered = new Promise<void>((resolve) => this.#server.tryShutdown(() => resolve()));
    const drained = Promise.all([answered, ...[...this.#running].map(({ ended }) => ended)]);
    if (!await within(grace, drained)) {
      for (const { abort } of this.#running) abort(new Unreachable("the driver is shutting down; try again"));
      await within(1000, drained);
    }
    this.#server.forceShutdown();
  }

  #bind(socket: string): Promise<void> {
    return new Promise((resolve, reject) => {
      const credentials = grpc.ServerCredentials.createInsecure();
      this.#server.bindAsync(`unix:${socket}`, credentials, (error) => error ? reject(error) : resolve());
    });
  }

  #serve(method: DescMethodUnary, handler: Handler): grpc.handleUnaryCall<Fields, unknown> {
    const handle = around(handler, [
      logged(codeName),
      measured(this.#options.metrics, codeName),
      this.#refusing,
      oneAtATime(this.#lock),
    ]);
    return (call, answer) => {
      const controller = new AbortController();
      let answered = false;
      // It fires after every successful answer, too.
      call.on("cancelled", () => answered || controller.abort(whyGone(call)));
      const context = { method: method.name, signal: controller.signal, requestNumber: ++this.#requests };
      const reply = (...outcome: [grpc.ServiceError | Partial<grpc.StatusObject> | null, unknown?]) => {
        answered = true;
        answer(...outcome);
      };
      const ended = Promise.resolve()
        .then(() => handle(call.request, context))
        .then((message) => create(method.output, message as MessageInitShape<typeof method.output>))
        .then((message) => reply(null, message), (error: unknown) => reply(statusOf(error)))
        .catch((error: unknown) => log.error(`no answer could be sent to ${method.name}`, { error }))
        .finally(() => this.#running.delete(running));
      const running = { abort: (why: Error) => controller.abort(why), ended };
      this.#running.add(running);
    };
  }

  readonly #refusing: Interceptor = (next) => (request, call) => {
    if (this.#stopping) return Promise.reject(new Unreachable("the driver is shutting down; try again"));
    return next(request, call);
  };
}

/** Whether something settles within so many milliseconds. */
async function within(milliseconds: number, work: Promise<unknown>): Promise<boolean> {
  const over = new AbortController();
  const timeout = pause(milliseconds, over.signal).then(() => false, () => false);
  const done = await Promise.race([work.then(() => true), timeout]);
  over.abort();
  return done;
}

function whyGone(call: grpc.ServerUnaryCall<Fields, unknown>): Error {
  const deadline = Number(call.getDeadline());
  if (deadline <= Date.now()) return new TimedOut("the caller's deadline passed before the work was done");
  return new Cancelled("the caller cancelled the call");
}

function codeName(code: grpc.status): string {
  return grpc.status[code] ?? String(code);
}
