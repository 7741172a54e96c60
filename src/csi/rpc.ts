import {
  create,
  type DescMethodUnary,
  type DescService,
  fromBinary,
  type MessageInitShape,
  type MessageShape,
  toBinary,
} from "@bufbuild/protobuf";
import * as grpc from "@grpc/grpc-js";
import { Buffer } from "node:buffer";
import { Cancelled } from "../runtime/errors.ts";
import { destroySessionsOutsideOfCallbacks } from "./http2.ts";

destroySessionsOutsideOfCallbacks();

/** The calls of a service, each from a complete request to an answer. */
export type Client<S extends DescService> = {
  [M in keyof S["method"]]: S["method"][M] extends DescMethodUnary<infer I, infer O>
    ? (request: MessageInitShape<I>, options?: CallOptions) => Promise<MessageShape<O>>
    : never;
};

/** How a client calls. */
export interface CallOptions {
  signal?: AbortSignal | undefined;
  /** Milliseconds; one minute by default. */
  deadline?: number | undefined;
}

/** What grpc-js wants to know of a service, from the descriptor that protobuf-es generated. */
export function serviceDefinition(service: DescService): grpc.ServiceDefinition {
  return Object.fromEntries(service.methods.map((method) => [method.localName, methodDefinition(method)]));
}

// deno-lint-ignore no-explicit-any -- grpc-js' own type of "some message"
type SomeMessage = any;

function methodDefinition(method: DescService["methods"][number]): grpc.MethodDefinition<SomeMessage, SomeMessage> {
  return {
    path: `/${method.parent.typeName}/${method.name}`,
    requestStream: method.methodKind === "client_streaming" || method.methodKind === "bidi_streaming",
    responseStream: method.methodKind === "server_streaming" || method.methodKind === "bidi_streaming",
    requestSerialize: (message) => Buffer.from(toBinary(method.input, message)),
    requestDeserialize: (bytes) => fromBinary(method.input, bytes),
    responseSerialize: (message) => Buffer.from(toBinary(method.output, message)),
    responseDeserialize: (bytes) => fromBinary(method.output, bytes),
  };
}

/** A client of a service on a unix socket. Rejects with grpc-js' `ServiceError` (`code`, `details`). */
export function connect<S extends DescService>(service: S, socket: string): Client<S> & Disposable {
  const channel = new grpc.Client(`unix:${socket}`, grpc.credentials.createInsecure(), {
    "grpc.default_authority": "localhost",
  });
  const calls = service.methods.map((method) => [method.localName, (request: unknown, options?: CallOptions) => {
    const definition = methodDefinition(method);
    const message = create(method.input, request as MessageInitShape<typeof method.input>);
    return unary(channel, definition, message, options ?? {});
  }]);
  return { ...Object.fromEntries(calls), [Symbol.dispose]: () => channel.close() };
}

function unary(
  channel: grpc.Client,
  { path, requestSerialize, responseDeserialize }: grpc.MethodDefinition<SomeMessage, SomeMessage>,
  message: unknown,
  { signal, deadline = 60_000 }: CallOptions,
): Promise<unknown> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(new Cancelled("the call was cancelled before it was sent"));
    const options = { deadline: Date.now() + deadline };
    const call = channel.makeUnaryRequest(
      path,
      requestSerialize,
      responseDeserialize,
      message,
      options,
      (error, answer) => {
        signal?.removeEventListener("abort", onAbort);
        if (error) reject(error);
        else resolve(answer);
      },
    );
    const onAbort = () => call.cancel();
    signal?.addEventListener("abort", onAbort, { once: true });
  });
}
