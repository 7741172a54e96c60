import { status } from "@grpc/grpc-js";
import {
  AlreadyExists,
  Busy,
  Cancelled,
  FailedPrecondition,
  InUse,
  InvalidArgument,
  messageOf,
  NoSpace,
  NotFound,
  OutOfRange,
  StartOver,
  TimedOut,
  Unreachable,
  Unsupported,
} from "../runtime/errors.ts";

type ErrorClass = abstract new (...args: never[]) => Error;

/** The one place where an error of the domain becomes a gRPC status (CSI 1.13, "Error Scheme"). */
const table: readonly [kind: ErrorClass, code: status][] = [
  [InvalidArgument, status.INVALID_ARGUMENT],
  [NotFound, status.NOT_FOUND],
  [AlreadyExists, status.ALREADY_EXISTS],
  [InUse, status.FAILED_PRECONDITION],
  [FailedPrecondition, status.FAILED_PRECONDITION],
  [NoSpace, status.RESOURCE_EXHAUSTED],
  [OutOfRange, status.OUT_OF_RANGE],
  [Unreachable, status.UNAVAILABLE],
  [TimedOut, status.DEADLINE_EXCEEDED],
  [Busy, status.ABORTED],
  [StartOver, status.ABORTED],
  [Cancelled, status.CANCELLED],
  // The method exists; it is the server behind the driver that does not have what it takes.
  [Unsupported, status.FAILED_PRECONDITION],
];

/** The status for whatever was thrown. What is in no row of the table is INTERNAL, with its whole text. */
export function statusOf(error: unknown): { code: status; details: string } {
  const row = table.find(([kind]) => error instanceof kind);
  // The text travels in a header, where half of a surrogate pair cannot be written.
  return { code: row ? row[1] : status.INTERNAL, details: messageOf(error).toWellFormed() };
}
