import { messageOf } from "../runtime/errors.ts";
import { interpret, type Surroundings } from "./interpreter.ts";
import { parse } from "./parser.ts";
import { commandsOf, ConsoleError, type Statement } from "./syntax.ts";

/** How one line is run. */
export interface ConsoleLine extends Omit<Surroundings, "output" | "before"> {
  /** The user's policies. */
  policies: readonly string[];
  /** Called when the line has no mistakes of form, before anything runs. */
  started?: (commands: readonly string[]) => Promise<void>;
  /** Waits as long as the command takes; answers the text that it is to fail with. */
  before: (command: string) => Promise<string | undefined | void>;
  /** Called when the line has run, with all that it put out. */
  ended?: (commands: readonly string[], output: string) => Promise<void>;
}

/**
 * Runs one line and resolves to what it puts out, errors included, with CRLF at each line's end. Rejects only with what
 * `started`, `before` and `ended` throw.
 */
export async function runLine(line: string, options: ConsoleLine): Promise<string> {
  const lines: string[] = [];
  let statements: Statement[] = [];
  let failure = mistakeIn(() => statements = parse(line));
  const commands = failure === undefined ? commandsOf(statements) : [];
  await options.started?.(commands);
  if (failure === undefined) {
    failure = await interpretLine(statements, options, (text) => lines.push(text));
  }
  if (failure !== undefined) lines.push(failure);
  const output = lines.map((text) => `${text}\r\n`).join("");
  await options.ended?.(commands, output);
  return output;
}

async function interpretLine(
  statements: readonly Statement[],
  options: ConsoleLine,
  output: (line: string) => void,
): Promise<string | undefined> {
  let stopped = false;
  const before = async (command: string) => {
    refuseWithoutPolicy(command, options.policies);
    const text = await options.before(command).catch((error) => {
      stopped = true;
      throw error;
    });
    if (typeof text === "string") throw new ConsoleError(text);
  };
  try {
    await interpret(statements, { ...options, output, before });
    return undefined;
  } catch (error) {
    if (stopped) throw error;
    return textOfFailure(error);
  }
}

function mistakeIn(read: () => void): string | undefined {
  try {
    read();
    return undefined;
  } catch (error) {
    return textOfFailure(error);
  }
}

/** Whatever goes wrong in here is told to the client: the server lives on. */
function textOfFailure(error: unknown): string {
  return error instanceof ConsoleError ? error.message : `failure: internal error: ${messageOf(error)}`;
}

function refuseWithoutPolicy(command: string, policies: readonly string[]): void {
  const policy = /(?: |^)(add|set|remove)$/.test(command) ? "write" : "read";
  if (!policies.includes(policy)) throw new ConsoleError("not enough permissions (9)");
}
