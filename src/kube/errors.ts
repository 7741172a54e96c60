import {
  AlreadyExists,
  Busy,
  type DriverError,
  FailedPrecondition,
  InvalidArgument,
  NotFound,
  StartOver,
  Unreachable,
} from "../runtime/errors.ts";

/** Somebody else changed the object in between: read it again, then decide. */
export class Conflict extends Busy {}
/** The resource version is too old, or the rest of a list is no longer to be had: list again. */
export class Gone extends StartOver {}

/** What the API server says when it says no (`Status` of meta/v1). */
export interface Status {
  code?: number;
  reason?: string;
  message?: string;
}

/**
 * An answer that is no success, as an error of the domain (Kubernetes API conventions, "HTTP Status codes").
 * @param doing completes "Kubernetes refused to …"
 */
export function kubeError(doing: string, { code = 0, reason = "", message = "" }: Status): DriverError {
  const said = `Kubernetes refused to ${doing}: ${code} ${message || reason}`;
  if (reason === "AlreadyExists") return new AlreadyExists(said);
  if (code === 404) return new NotFound(said);
  if (code === 409) return new Conflict(`${said}; try again`);
  if (code === 410) return new Gone(said);
  if (code === 401) {
    return new FailedPrecondition(`${said}: the token is not taken; look at the service account or --kubeconfig`);
  }
  if (code === 403) return new FailedPrecondition(`${said}: give the driver's ClusterRole or Role this permission`);
  if (code === 400 || code === 422) return new InvalidArgument(said);
  return new Unreachable(`${said}; try again`);
}
