import {
  AlreadyExists,
  DriverError,
  FailedPrecondition,
  InvalidArgument,
  NoSpace,
  Unreachable,
  Unsupported,
} from "../runtime/errors.ts";

/** What RouterOS answered instead of doing what it was told, when no other class fits: its whole text. */
export class RouterOsError extends Error {
  override readonly name = "RouterOsError";
}

type Kind = new (message: string, options?: ErrorOptions) => DriverError;

/** RouterOS is at work with the thing, or something on RouterOS uses it: the same request may succeed later. */
export class RouterOsBusy extends Unreachable {}

/** RouterOS broke the command off: what it had done until then is not known. */
export class Interrupted extends Unreachable {}

/** A row went away between its look-up and its use. Not a proof that the volume is gone: it must be read again. */
export class RouterOsChanged extends Unreachable {}

/**
 * The texts by which RouterOS tells what went wrong (a failing command's exit status is 0, its text is on stdout).
 * Wordings: RouterOS 7 console, and what drivers met on devices; "not enough space" was never seen on a device.
 */
const table: [pattern: RegExp, kind: Kind, remedy: string][] = [
  [/not enough space|no space left/i, NoSpace, "free space on the pool, delete volumes, or ask for a smaller one"],
  [/already (have|exists)/i, AlreadyExists, "look at '/disk print detail' for who has this slot, file or NQN"],
  [/no such item|expected item id/i, RouterOsChanged, "it went away in the meantime; try again"],
  [
    /not enough permissions|not allowed \(9\)/i,
    FailedPrecondition,
    "give the group of the driver's RouterOS user the policies ssh, read and write",
  ],
  [/can not do that|could not unmount|stop using it first|\bin use\b|\bbusy\b/i, RouterOsBusy, "try again later"],
  [/interrupted/i, Interrupted, "RouterOS broke the command off; try again"],
  [
    /invalid value for argument slot/i,
    FailedPrecondition,
    "this RouterOS takes slots of 32 characters at most: use --volume-ids=short",
  ],
  [
    /input does not match any value of|bad parameter|expected end of command|bad command name/i,
    Unsupported,
    "this RouterOS does not know the command: the driver needs 7.21 or later with the package rose-storage",
  ],
  [/invalid value for argument|syntax error/i, InvalidArgument, "this is a defect of the driver: please report it"],
];

/** The error that a text of RouterOS stands for. The whole text stays in the message. */
export function routerOsError(text: string, doing: string): DriverError | RouterOsError {
  const said = text.trim().replaceAll(/\s*\r?\n\s*/g, " | ");
  for (const [pattern, Kind, remedy] of table) {
    if (pattern.test(said)) return new Kind(`RouterOS did not ${doing}: '${said}'; ${remedy}`);
  }
  return new RouterOsError(
    said === ""
      ? `RouterOS ended the answer to '${doing}' without saying whether it was done; try again`
      : `RouterOS failed to ${doing}: '${said}'`,
  );
}

/** Whether an error says for sure that RouterOS did nothing of what it was told. */
export function isRefusal(error: unknown): boolean {
  return error instanceof DriverError && !(error instanceof Interrupted);
}
