import type { status } from "@grpc/grpc-js";
import type { KeyedLock } from "../runtime/keyed_lock.ts";
import { log } from "../runtime/log.ts";
import type { Metrics } from "../runtime/metrics.ts";
import { keyOf, volumeIdOf } from "../volumes/id.ts";
import { statusOf } from "./status.ts";

/** What a handler knows of its call besides the request. */
export interface CallContext {
  /** The method's name, like `CreateVolume`. */
  method: string;
  /** Aborts when the caller's deadline passes, when it cancels, or when the process must end. */
  signal: AbortSignal;
  /** Counts up from 1 in each process. */
  requestNumber: number;
}

/** Any handler, without its types. */
export type Handler = (request: Fields, call: CallContext) => Promise<unknown>;
export type Interceptor = (next: Handler) => Handler;

/** The fields that many requests have. */
export interface Fields {
  volumeId?: string;
  name?: string;
}

/** Puts interceptors around a handler, the first one outermost. */
export function around(handler: Handler, interceptors: readonly Interceptor[]): Handler {
  return interceptors.reduceRight((inner, interceptor) => interceptor(inner), handler);
}

/** Methods that change something: one at a time for each volume. The others take no guard. */
const changing = new Set([
  "CreateVolume",
  "DeleteVolume",
  "ControllerPublishVolume",
  "ControllerUnpublishVolume",
  "ControllerExpandVolume",
  "NodeStageVolume",
  "NodeUnstageVolume",
  "NodePublishVolume",
  "NodeUnpublishVolume",
  "NodeExpandVolume",
]);

/** Asked every few seconds by probes: only worth a line when looked for. */
const chatty = /^(Probe|GetPlugin|.*GetCapabilities$|NodeGetVolumeStats)/;

/** One changing call a volume, whichever of its names it is called by; the second is ABORTED (CSI 1.13, "Concurrency"). */
export function oneAtATime(lock: KeyedLock): Interceptor {
  return (next) => (request, call) => {
    const key = request.volumeId ? keyOf(request.volumeId) : request.name && volumeIdOf(request.name, "short");
    if (!changing.has(call.method) || !key) return next(request, call);
    return lock.run(key, call.method, () => next(request, call));
  };
}

/** Counts calls by method and code, and measures them. */
export function measured(
  metrics: Pick<Metrics, "grpcCalls" | "grpcDuration">,
  codeName: (code: status) => string,
): Interceptor {
  return (next) => async (request, call) => {
    const started = performance.now();
    let code: status = 0;
    try {
      return await next(request, call);
    } catch (error) {
      code = statusOf(error).code;
      throw error;
    } finally {
      metrics.grpcCalls.inc({ method: call.method, code: codeName(code) });
      metrics.grpcDuration.observe({ method: call.method, code: codeName(code) }, (performance.now() - started) / 1000);
    }
  };
}

/** A line for each call. The request itself is not logged: it may hold secrets. */
export function logged(codeName: (code: status) => string): Interceptor {
  return (next) => async (request, call) => {
    const started = performance.now();
    const fields = () => ({
      request: call.requestNumber,
      volumeId: request.volumeId || undefined,
      name: request.name || undefined,
      milliseconds: Math.round(performance.now() - started),
    });
    try {
      const answer = await next(request, call);
      log[chatty.test(call.method) ? "debug" : "info"](call.method, { ...fields(), code: "OK" });
      return answer;
    } catch (error) {
      const code = codeName(statusOf(error).code);
      const stack = code === "INTERNAL" && error instanceof Error ? error.stack : undefined;
      log.warn(call.method, { ...fields(), code, error, stack });
      throw error;
    }
  };
}
