/** What the parser makes of a line of the console. @module */
import type { Value } from "./values.ts";

/** Something that has a value. */
export type Expression =
  /** A quoted text without expansions, or a word that stands for itself. */
  | { kind: "text"; text: string; quoted: boolean }
  /** A quoted text with `$name`, `$( … )` or `$[ … ]` in it. */
  | { kind: "expansion"; parts: Expression[] }
  | { kind: "variable"; name: string }
  /** A word on the left side of a condition. */
  | { kind: "property"; name: string }
  /** What was worked out already (never from the parser). */
  | { kind: "value"; value: Value }
  /** `[ … ]` */
  | { kind: "substitution"; statements: Statement[] }
  /** `{ … }` */
  | { kind: "block"; statements: Statement[] }
  | { kind: "not"; of: Expression }
  | { kind: "minus"; of: Expression }
  | { kind: "all" | "any"; of: Expression[] }
  | { kind: "binary"; operator: Operator; left: Expression; right: Expression };

export type Operator = "=" | "!=" | "<" | ">" | "<=" | ">=" | "~" | "+" | "-" | "*" | ".";

/** One command with what was written behind it. */
export interface Statement {
  /** Path of the menu without leading slash, `""` for the global commands. */
  menu: string;
  verb: string;
  named: Map<string, Expression>;
  flags: Set<string>;
  unnamed: Expression[];
  where?: Expression;
}

/** What the parser must know of a command, so that it finds mistakes before anything runs. */
export interface CommandForm {
  /** Parameters, written `name=value`. */
  named?: readonly string[];
  /** Words that stand alone. */
  flags?: readonly string[];
  /** How many values without a name it takes. */
  unnamed?: number;
  /** Rows are chosen by a condition: behind the word `where`, or (`bare`) also without it. */
  where?: "word" | "bare";
}

/** The forms of all commands: by menu, then by verb. */
export type Forms = Readonly<Record<string, Readonly<Record<string, CommandForm>>>>;

/** A text of RouterOS that tells what went wrong: it ends the line. */
export class ConsoleError extends Error {
  override readonly name = "ConsoleError";
}

/** All expressions of a line in the order in which they are written (for tests of whoever makes such lines). */
export function expressionsOf(statements: readonly Statement[]): Expression[] {
  return statements.flatMap(({ named, unnamed, where }) =>
    [...unnamed, ...named.values(), ...(where ? [where] : [])].flatMap(withInner)
  );
}

function withInner(expression: Expression): Expression[] {
  switch (expression.kind) {
    case "substitution":
    case "block":
      return [expression, ...expressionsOf(expression.statements)];
    case "expansion":
      return [expression, ...expression.parts.flatMap(withInner)];
    case "all":
    case "any":
      return [expression, ...expression.of.flatMap(withInner)];
    case "not":
    case "minus":
      return [expression, ...withInner(expression.of)];
    case "binary":
      return [expression, ...withInner(expression.left), ...withInner(expression.right)];
    default:
      return [expression];
  }
}

/** The commands of a line, also those inside brackets and braces, as `disk add` or `:put`. */
export function commandsOf(statements: readonly Statement[]): string[] {
  const inner = expressionsOf(statements).flatMap((expression) =>
    "statements" in expression ? expression.statements : []
  );
  return [...statements, ...inner].map(commandName);
}

/** `disk add`, `:put`. */
export function commandName({ menu, verb }: Pick<Statement, "menu" | "verb">): string {
  return menu === "" ? `:${verb}` : `${menu} ${verb}`;
}
