import { abortable, Deadline } from "../runtime/deadline.ts";
import { messageOf } from "../runtime/errors.ts";

/** From well to bad; `unknown`: it could not be looked at, which says nothing either way. */
export type Status = "ok" | "unknown" | "warning" | "error";

const order: readonly Status[] = ["ok", "unknown", "warning", "error"];

/** One thing that a check found. */
export interface Finding {
  status: Status;
  /** What kind of thing it is, the same in every version: for scripts, and to be looked up in the documents. */
  code: string;
  /** WHAT there is, in words. */
  detail: string;
  /** HOW to put it right. */
  remedy?: string;
}

/** What a code means, wherever it is found: the page of all findings is made of these. */
export interface Meaning {
  status: Status;
  /** Completes "found when …". */
  when: string;
  remedy: string;
}

/** One look at one thing. It changes nothing. */
export interface Check {
  name: string;
  /** What it looks at. */
  about: string;
  /** Milliseconds; {@linkcode standardLimit} by default. */
  limit?: number;
  /** @throws whatever left it unknown: that is a finding, too */
  run(signal: AbortSignal): Promise<Finding[]>;
}

/** What came of a check. */
export interface Outcome {
  name: string;
  /** The worst of its findings. */
  status: Status;
  milliseconds: number;
  findings: Finding[];
}

/** Milliseconds that a check has. */
export const standardLimit = 15_000;

/** The worst of some; `ok` of none. */
export function worst(statuses: readonly Status[]): Status {
  return statuses.reduce<Status>((worst, each) => order.indexOf(each) > order.indexOf(worst) ? each : worst, "ok");
}

/**
 * Runs the checks at the same time, each with a deadline of its own, and gives what came of them in their order. A check
 * that fails or does not answer leaves the finding `not-known`.
 */
export function runChecks(checks: readonly Check[], signal: AbortSignal): Promise<Outcome[]> {
  return Promise.all(checks.map((check) => runCheck(check, signal)));
}

async function runCheck(check: Check, parent: AbortSignal): Promise<Outcome> {
  const began = performance.now();
  using deadline = new Deadline(check.limit ?? standardLimit, `the check '${check.name}'`, parent);
  const findings = await abortable(Promise.resolve().then(() => check.run(deadline.signal)), deadline.signal)
    .catch((error): Finding[] => [unknown(messageOf(error))]);
  const status = worst(findings.map((finding) => finding.status));
  return { name: check.name, status, milliseconds: Math.round(performance.now() - began), findings };
}

/** What was looked at is as it should be. */
export function ok(detail: string): Finding {
  return { status: "ok", code: "ok", detail };
}

/** It could not be looked at. */
export function unknown(detail: string, remedy?: string): Finding {
  return { status: "unknown", code: "not-known", detail, ...(remedy ? { remedy } : {}) };
}
