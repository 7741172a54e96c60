import { assertEquals } from "@std/assert";
import { status } from "@grpc/grpc-js";
import * as errors from "../runtime/errors.ts";
import { statusOf } from "./status.ts";

const codes: Readonly<Record<string, status>> = {
  InvalidArgument: status.INVALID_ARGUMENT,
  NotFound: status.NOT_FOUND,
  AlreadyExists: status.ALREADY_EXISTS,
  InUse: status.FAILED_PRECONDITION,
  FailedPrecondition: status.FAILED_PRECONDITION,
  NoSpace: status.RESOURCE_EXHAUSTED,
  OutOfRange: status.OUT_OF_RANGE,
  Unreachable: status.UNAVAILABLE,
  TimedOut: status.DEADLINE_EXCEEDED,
  Busy: status.ABORTED,
  StartOver: status.ABORTED,
  Cancelled: status.CANCELLED,
  Unsupported: status.FAILED_PRECONDITION,
};

Deno.test("statusOf() knows every error of the domain", () => {
  const kinds = Object.entries(errors).filter(([name, value]) => {
    return name !== "DriverError" && typeof value === "function" && value.prototype instanceof errors.DriverError;
  });
  assertEquals(kinds.map(([name]) => name).sort(), Object.keys(codes).sort());
  for (const [name, kind] of kinds) {
    const error = new (kind as new (message: string) => Error)("what and how");
    assertEquals(statusOf(error), { code: codes[name] ?? status.UNKNOWN, details: "what and how" }, name);
  }
});

Deno.test("statusOf() never takes anything unknown for an absence", () => {
  for (
    const thrown of [new Deno.errors.NotFound("gone"), new Error("not found"), "not found", { code: 5 }, undefined]
  ) {
    assertEquals(statusOf(thrown).code, status.INTERNAL);
  }
});
