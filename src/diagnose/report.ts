import { type Finding, type Outcome, type Status, worst } from "./check.ts";

/** What a command that looks has to say. */
export interface Report {
  /** `node` or `controller`. */
  subject: string;
  /** Of the program that looked. */
  version: string;
  /** The node's name, or RouterOS' address, where it is known. */
  name: string | undefined;
  time: Date;
  outcomes: readonly Outcome[];
}

/** What `--output=json` has in its field `schema`: it changes when a field goes or changes its meaning. */
export const schema = "rds-csi/diagnose/v1";

/** 0: all is well; 1: there are warnings, or things that could not be looked at; 2: there are errors. */
export function exitStatus({ outcomes }: Pick<Report, "outcomes">): number {
  const status = worst(outcomes.map((outcome) => outcome.status));
  return status === "ok" ? 0 : status === "error" ? 2 : 1;
}

/** The report as one JSON object. */
export function jsonReport(report: Report): string {
  const { subject, version, name, time, outcomes } = report;
  const status = worst(outcomes.map((outcome) => outcome.status));
  const head = { schema, subject, name: name ?? null, version, time: time.toISOString(), status };
  return `${JSON.stringify({ ...head, checks: outcomes }, undefined, 2)}\n`;
}

const colours: Readonly<Record<Status, string>> = { ok: "32", unknown: "35", warning: "33", error: "31" };

/** A line a check, and below them what is not well. @param options.colour for a terminal */
export function textReport(report: Report, options: { colour: boolean }): string {
  const { subject, version, name, time, outcomes } = report;
  const paint = (status: Status, text: string) => options.colour ? `\x1b[${colours[status]}m${text}\x1b[0m` : text;
  const width = Math.max(...outcomes.map((outcome) => outcome.name.length));
  const lines = [`rds-csi ${version}: ${subject}${name ? ` ${name}` : ""}, ${time.toISOString()}`, ""];
  for (const outcome of outcomes) {
    const { name, status } = outcome;
    lines.push(`${paint(status, status.padEnd(7))}  ${name.padEnd(width)}  ${summary(outcome)}`.trimEnd());
  }
  for (const { names, finding: { status, code, detail, remedy } } of together(outcomes)) {
    lines.push("", `${paint(status, status)} ${names.join(", ")}/${code}: ${detail}`);
    if (remedy) lines.push(`  → ${remedy.replaceAll("\n", "\n    ")}`);
  }
  return `${lines.join("\n")}\n\n${conclusion(outcomes)}\n`;
}

/** What is not well, and in which checks: what keeps several from looking is said once. */
function together(outcomes: readonly Outcome[]): { names: string[]; finding: Finding }[] {
  const all = outcomes.flatMap(({ name, findings }) => findings.map((finding) => ({ name, finding })));
  const bad = all.filter(({ finding }) => finding.status !== "ok");
  return [...Map.groupBy(bad, ({ finding }) => JSON.stringify(finding)).values()].flatMap((same) => {
    const [first] = same;
    return first ? [{ names: same.map(({ name }) => name), finding: first.finding }] : [];
  });
}

function summary({ status, findings }: Outcome): string {
  if (status === "ok") return findings.map(({ detail }) => detail).join("; ");
  const bad = findings.filter((finding) => finding.status !== "ok");
  const [first] = bad;
  return bad.length === 1 && first ? cut(first.detail) : counted(bad);
}

/** `2 × session-not-live, record-unusable` */
function counted(findings: readonly Finding[]): string {
  const codes = Map.groupBy(findings, ({ code }) => code);
  return [...codes].map(([code, { length }]) => length > 1 ? `${length} × ${code}` : code).join(", ");
}

function cut(text: string): string {
  return text.length > 90 ? `${text.slice(0, 89)}…` : text;
}

function conclusion(outcomes: readonly Outcome[]): string {
  const findings = outcomes.flatMap((outcome) => outcome.findings);
  const count = (status: Status) => findings.filter((finding) => finding.status === status).length;
  const [errors, warnings, unknowns] = [count("error"), count("warning"), count("unknown")];
  if (errors + warnings + unknowns === 0) return "Nothing is wrong as far as can be seen from here.";
  return `${errors} errors, ${warnings} warnings, ${unknowns} things that could not be looked at.`;
}
