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

/** The driver may not do this. */
export class Forbidden extends FailedPrecondition {}
/** The namespace is being deleted: nothing can be made in it any more. */
export class NamespaceEnding extends FailedPrecondition {}

/** What the API server says when it says no (`Status` of meta/v1). */
export interface Status {
  code?: number;
  reason?: string;
  message?: string;
  details?: { causes?: { reason?: string }[] };
}

/**
 * An answer that is no success, as an error of the domain (Kubernetes API conventions, "HTTP Status codes").
 * @param doing completes "Kubernetes refused to …"
 */
export function kubeError(doing: string, { code = 0, reason = "", message = "", details }: Status): DriverError {
  const said = `Kubernetes refused to ${doing}: ${code} ${message || reason}`;
  if (reason === "AlreadyExists") return new AlreadyExists(said);
  // A proxy's 404, or that of an API group that is not served, says nothing about the object.
  if (code === 404 && reason === "NotFound") return new NotFound(said);
  if (code === 409) return new Conflict(`${said}; try again`);
  if (code === 410) return new Gone(said);
  if (code === 401) {
    return new FailedPrecondition(`${said}: the token is not taken; look at the service account or --kubeconfig`);
  }
  if (details?.causes?.some((cause) => cause.reason === "NamespaceTerminating")) return new NamespaceEnding(said);
  if (code === 403) return new Forbidden(`${said}: give the driver's ClusterRole or Role this permission`);
  if (code === 400 || code === 422) return new InvalidArgument(said);
  return new Unreachable(`${said}; try again`);
}
