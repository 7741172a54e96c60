import type { Meaning } from "./check.ts";
import { allQuestions, checksOf } from "./help.ts";
import { ofController, ofNode } from "./meanings.ts";

/** The reference page of `diagnose`, in Markdown. */
export function diagnosePage(): string {
  return [
    "# Checks, findings and questions of `diagnose`",
    "Made from `src/diagnose/` by `deno task docs`; do not edit. How it is used: [the guide](../guides/diagnose.md). A check that could not " +
    "look, or did not answer in time, leaves the finding `not-known`, which counts as a warning.",
    "## Checks of a node",
    checkTable(checksOf("diagnose")),
    "## Findings on a node",
    meaningTable(ofNode),
    "## Checks of the controller",
    checkTable(checksOf("diagnose controller")),
    "## Findings where the controller runs",
    meaningTable(ofController),
    "## Questions of the probe",
    "Names are those of the simulator's settings (`--guesses`) where it has one. The driver works with either answer unless it says what to set.",
    table(
      ["question", "what it asks", "the driver expects"],
      allQuestions().map(({ name, asks, expects }) => [`\`${name}\``, asks, expects]),
    ),
  ].join("\n\n") + "\n";
}

function checkTable(checks: readonly { name: string; about: string }[]): string {
  return table(["check", "what it looks at"], checks.map(({ name, about }) => [`\`${name}\``, about]));
}

function meaningTable(meanings: Readonly<Record<string, Meaning>>): string {
  const rows = Object.entries(meanings).map((
    [code, { status, when, remedy }],
  ) => [`\`${code}\``, status, when, remedy]);
  return table(["finding", "status", "found when", "what to do"], rows);
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  // What looks like a tag or a column would not be shown.
  const plain = (cell: string) => cell.replaceAll("|", "\\|").replaceAll("<", "&lt;");
  const line = (cells: readonly string[]) => `| ${cells.map(plain).join(" | ")} |`;
  return [line(head), line(head.map(() => "---")), ...rows.map(line)].join("\n");
}
