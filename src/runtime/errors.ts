/**
 * The errors of the domain. A message says WHAT happened and HOW to put it right; the class says what kind of thing it
 * was. They are made where the text of the outside world is known, and turned into a gRPC status in one table
 * (`src/csi/status.ts`). Whatever is not one of these is Internal: nothing unknown is ever read as "not there".
 * @module
 */

/** The base: never thrown itself. */
export abstract class DriverError extends Error {
  /** @param message WHAT happened and HOW to put it right. */
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = new.target.name;
  }
}

/** The request is wrong by itself; repeating it will not help. */
export class InvalidArgument extends DriverError {}
/** The thing asked for is proven not to be there. */
export class NotFound extends DriverError {}
/** The name is taken by something that does not fit the request. */
export class AlreadyExists extends DriverError {}
/** Somebody uses it: what was asked for must wait until they leave. */
export class InUse extends DriverError {}
/** The state of things forbids it until somebody changes that state. */
export class FailedPrecondition extends DriverError {}
/** The server has no room for it. */
export class NoSpace extends DriverError {}
/** A number lies outside of what is possible. */
export class OutOfRange extends DriverError {}
/** The other side cannot be reached, or not now. Nothing is known of the state behind it. */
export class Unreachable extends DriverError {}
/** There was no answer in time. Whether the request had an effect is not known. */
export class TimedOut extends DriverError {}
/** Another operation on the same thing is under way. */
export class Busy extends DriverError {}
/** What the request builds on is not there any more: it has to begin from the start. */
export class StartOver extends DriverError {}
/** The caller went away. */
export class Cancelled extends DriverError {}
/** This version or configuration of the server or the driver does not have it. */
export class Unsupported extends DriverError {}

/** Whether the same request may succeed later without anybody changing anything. */
export function isRetriable(error: unknown): boolean {
  return error instanceof Unreachable || error instanceof TimedOut || error instanceof Busy;
}

/** The text of whatever was thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
