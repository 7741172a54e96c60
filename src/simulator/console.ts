import { Cancelled, messageOf } from "../runtime/errors.ts";
import { interpret, type Surroundings } from "./interpreter.ts";
import { parse } from "./parser.ts";
import { commandsOf, ConsoleError } from "./syntax.ts";

/** How one line is run. */
export interface ConsoleLine extends Omit<Surroundings, "output"> {
  /** The user's policies. */
  policies: readonly string[];
  /** Called when the line has no mistakes of form, before anything runs. */
  started?: (commands: readonly string[]) => Promise<void>;
  /** Called when the line has failed, with the text that tells it: the last line of the output. */
  failed?: (text: string) => void;
  /** Called when the line has run, with all that it put out. */
  ended?: (commands: readonly string[], output: string) => Promise<void>;
}

/**
 * Runs one line and resolves to what it puts out, errors included, with CRLF at each line's end.
 * @throws {Cancelled} when `started`, `before` or `ended` do
 */
export async function runLine(line: string, options: ConsoleLine): Promise<string> {
  const lines: string[] = [];
  let commands: string[] = [];
  const before: ConsoleLine["before"] = async (command, given) => {
    refuseWithoutPolicy(command, options.policies);
    await options.before(command, given);
  };
  try {
    const statements = parse(line);
    commands = commandsOf(statements);
    await options.started?.(commands);
    await interpret(statements, { ...options, before, output: (text) => lines.push(text) });
  } catch (error) {
    if (error instanceof Cancelled) throw error;
    // Whatever goes wrong in here is told to the client: the server lives on.
    lines.push(error instanceof ConsoleError ? error.message : `failure: internal error: ${messageOf(error)}`);
    options.failed?.(lines.at(-1) ?? "");
  }
  const output = lines.map((text) => `${text}\r\n`).join("");
  await options.ended?.(commands, output);
  return output;
}

function refuseWithoutPolicy(command: string, policies: readonly string[]): void {
  const policy = /(?: |^)(add|set|remove)$/.test(command) ? "write" : "read";
  if (!policies.includes(policy)) throw new ConsoleError("not enough permissions (9)");
}
