import type { CommandName } from "../config_commands.ts";
import type { Config } from "../config_read.ts";
import type { Check } from "./check.ts";
import { controllerChecks } from "./controller_checks.ts";
import { controllerWorld } from "./controller_world.ts";
import { nodeChecks } from "./node_checks.ts";
import { nodeWorld } from "./node_world.ts";
import { firstQuestions } from "./probe.ts";
import { patience, type Question, questions } from "./questions.ts";
import { leftOut, questionsOfNode } from "./questions_connected.ts";

/** What a command of `diagnose` does in particular, for its `--help`. */
export function helpLines(command: CommandName): string[] {
  return [...particulars(command), "", "Nothing is logged unless --log-level=DEBUG says so."];
}

function particulars(command: CommandName): string[] {
  if (command === "diagnose bundle") {
    return ["", "Exit status: 0 it is written, whatever the reports in it say; 2 it is not."];
  }
  if (command === "diagnose probe") return probeLines();
  return [
    ...["", "Exit status: 0 all is well; 1 warnings, or things that could not be looked at; 2 errors."],
    ...["", "Checks:", ...columns(checksOf(command).map(({ name, about }) => [name, about]))],
  ];
}

function probeLines(): string[] {
  const asked = allQuestions().map(({ name, asks }): [string, string] => [name, asks]);
  return [
    "",
    "Exit status: 0 all was answered; 1 some was not; 2 it did not begin, or something is left on RouterOS (the report says what).",
    "What is left by a probe that was killed has names with rds-csi-probe- in them.",
    ...["", "Questions (the last ones need nvme-cli and the host's trees, where it runs):", ...columns(asked)],
  ];
}

/** All questions of the probe; nothing is asked. */
export function allQuestions(): readonly Pick<Question, "name" | "asks" | "expects">[] {
  return [...firstQuestions, ...questions(patience), ...questionsOfNode(), leftOut];
}

function columns(rows: readonly (readonly [string, string])[]): string[] {
  const width = Math.max(...rows.map(([name]) => name.length));
  return rows.map(([name, about]) => `  ${name.padEnd(width)}  ${about}`);
}

/** The checks of a command; nothing is looked at. */
export function checksOf(command: CommandName): readonly Pick<Check, "name" | "about">[] {
  const nothing = { problems: [], version: "" };
  const config = {} as Config;
  if (command === "diagnose") return nodeChecks(nodeWorld(config, nothing));
  return command === "diagnose controller" ? controllerChecks(controllerWorld(config, nothing)) : [];
}
