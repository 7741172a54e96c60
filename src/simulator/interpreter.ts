import { compute, namesIn } from "./conditions.ts";
import { commandName, ConsoleError, type Expression, type Statement } from "./syntax.ts";
import { concatenate, jsonOf, lengthOf, literal, numberIn, textOf, truthOf, typeName, type Value } from "./values.ts";
import type { Call, Menus, RowTest } from "./menus/menu.ts";

/** Commands that one line may run: an end for loops within loops. */
const MOST_STEPS = 100_000;

/** What the surroundings do and decide while a line runs. */
export interface Surroundings {
  menus: Menus;
  /** Takes one line of output. */
  output: (line: string) => void;
  /** Waits as long as the command takes, and throws when it is to fail or the line is to stop. */
  before: (command: string, given: Readonly<Record<string, string>>) => Promise<void>;
  /** Numbers in JSON with six decimals. */
  jsonDecimals?: boolean;
  /** Rows of `as-value` when there are none: an empty list, or nothing at all. */
  noRows?: "brackets" | "nothing";
}

/**
 * Runs parsed commands one after the other.
 * @throws {ConsoleError} with the text of the first that fails; what was put out before stays put out
 */
export async function interpret(statements: readonly Statement[], surroundings: Surroundings): Promise<void> {
  await new Interpreter(surroundings).run(statements, new Scope());
}

/** Where an expression stands. */
interface Around {
  scope: Scope;
  /** Words stay texts, as in parameters and conditions. */
  asWritten?: boolean;
  /** What a condition may name. */
  properties?: readonly string[];
}

function valued(value: Value): Expression {
  return { kind: "value", value };
}

class Scope {
  readonly #values = new Map<string, Value>();
  readonly #outer: Scope | undefined;
  constructor(outer?: Scope) {
    this.#outer = outer;
  }
  has(name: string): boolean {
    return this.#values.has(name) || (this.#outer?.has(name) ?? false);
  }
  get(name: string): Value {
    return this.#values.has(name) ? this.#values.get(name) : this.#outer?.get(name);
  }
  declare(name: string, value: Value): void {
    this.#values.set(name, value);
  }
  assign(name: string, value: Value): void {
    if (this.#outer?.has(name) && !this.#values.has(name)) this.#outer.assign(name, value);
    else this.#values.set(name, value);
  }
}

class Interpreter {
  readonly #surroundings: Surroundings;
  #steps = 0;

  constructor(surroundings: Surroundings) {
    this.#surroundings = surroundings;
  }

  /** The value of the last command. */
  async run(statements: readonly Statement[], scope: Scope, inBrackets = false): Promise<Value> {
    let value: Value;
    for (const statement of statements) {
      if (++this.#steps > MOST_STEPS) throw new ConsoleError("interrupted");
      value = statement.menu === ""
        ? await this.#global(statement, scope)
        : await this.#command(statement, scope, inBrackets);
    }
    return value;
  }

  async #command(statement: Statement, scope: Scope, inBrackets: boolean): Promise<Value> {
    const named: Record<string, string> = {};
    for (const [name, expression] of statement.named) named[name] = textOf(await this.#written(expression, scope));
    const unnamed: Value[] = [];
    for (const expression of statement.unnamed) unnamed.push(await this.#written(expression, scope));
    const command = this.#surroundings.menus[statement.menu]?.[statement.verb];
    if (!command) throw new ConsoleError(`bad command name ${statement.verb} (line 1 column 1)`);
    const where = statement.where && await this.#where(statement.where, scope, command.properties ?? []);
    const call: Call = { named, unnamed, flags: statement.flags, inBrackets, output: this.#surroundings.output };
    await this.#surroundings.before(commandName(statement), named);
    return await command.run(where ? { ...call, ...where } : call);
  }

  async #where(where: Expression, scope: Scope, properties: readonly string[]): Promise<RowTest> {
    const resolved = await this.#resolve(where, { scope, properties, asWritten: true });
    const names = namesIn(resolved);
    return { matches: (row) => truthOf(compute(resolved, row)), ...(names ? { names } : {}) };
  }

  /** A value as it was written: words stay texts. */
  async #written(expression: Expression, scope: Scope): Promise<Value> {
    return compute(await this.#resolve(expression, { scope, asWritten: true }));
  }

  async #evaluate(expression: Expression, scope: Scope): Promise<Value> {
    return compute(await this.#resolve(expression, { scope }));
  }

  /** Works out all that depends on no row; a variable named like a property stands in its place. */
  async #resolve(expression: Expression, around: Around): Promise<Expression> {
    const { scope } = around;
    const inner = (one: Expression) => this.#resolve(one, around);
    switch (expression.kind) {
      case "text":
        return valued(expression.quoted || around.asWritten ? expression.text : literal(expression.text));
      case "expansion": {
        let text = "";
        for (const part of expression.parts) text = concatenate(text, textOf(await this.#evaluate(part, scope)));
        return valued(text);
      }
      case "variable":
        return valued(scope.get(expression.name));
      case "property":
        if (scope.has(expression.name)) return valued(scope.get(expression.name));
        if (!around.properties?.includes(expression.name)) throw new ConsoleError(`bad parameter ${expression.name}`);
        return expression;
      case "substitution":
        return valued(await this.run(expression.statements, new Scope(scope), true));
      case "not":
      case "minus":
        return { ...expression, of: await inner(expression.of) };
      case "all":
      case "any": {
        const of: Expression[] = [];
        for (const one of expression.of) of.push(await inner(one));
        return { ...expression, of };
      }
      case "binary":
        return { ...expression, left: await inner(expression.left), right: await inner(expression.right) };
      default:
        return valued(undefined);
    }
  }

  async #block(expression: Expression | undefined, scope: Scope): Promise<Value> {
    if (expression === undefined) return undefined;
    if (expression.kind !== "block") throw new ConsoleError("invalid value for argument do");
    return await this.run(expression.statements, new Scope(scope));
  }

  async #global(statement: Statement, scope: Scope): Promise<Value> {
    const { verb, named, unnamed: [first, second] } = statement;
    if (verb === "serialize") return await this.#serialize(statement, scope);
    if (first === undefined) throw new ConsoleError(`missing value(s) of argument(s) ${verb}`);
    switch (verb) {
      case "if": {
        const holds = truthOf(await this.#evaluate(first, scope));
        return await this.#block(named.get(holds ? "do" : "else"), scope);
      }
      case "do":
        if (!named.has("on-error")) return await this.#block(first, scope);
        return await this.#caught(first, scope, () => this.#block(named.get("on-error"), scope));
      case "onerror":
        return await this.#caught(named.get("in"), scope, (text) => {
          const inner = new Scope(scope);
          inner.declare(nameIn(first), text);
          return this.#block(named.get("do"), inner);
        });
      case "foreach":
        return await this.#foreach(statement, nameIn(first), scope);
      case "delay":
        await this.#surroundings.before("delay", { time: textOf(await this.#evaluate(first, scope)) });
        return undefined;
      case "local":
        return scope.declare(nameIn(first), second && await this.#evaluate(second, scope)) as undefined;
      case "set":
        return scope.assign(nameIn(first), second && await this.#evaluate(second, scope)) as undefined;
      default:
        return this.#function(verb, await this.#evaluate(first, scope));
    }
  }

  #function(verb: string, value: Value): Value {
    switch (verb) {
      case "put":
        this.#surroundings.output(textOf(value));
        return undefined;
      case "error":
        throw new ConsoleError(textOf(value));
      case "len":
        return lengthOf(value);
      case "tonum":
        return typeof value === "number" ? value : numberIn(textOf(value));
      case "typeof":
        return typeName(value);
      default:
        return textOf(value);
    }
  }

  async #caught(block: Expression | undefined, scope: Scope, caught: (text: string) => Promise<Value>): Promise<Value> {
    try {
      return await this.#block(block, scope);
    } catch (error) {
      if (!(error instanceof ConsoleError)) throw error;
      return await caught(error.message);
    }
  }

  async #foreach({ named }: Statement, name: string, scope: Scope): Promise<undefined> {
    const list = named.get("in");
    const value = list && await this.#evaluate(list, scope);
    for (const item of Array.isArray(value) ? value : value === undefined ? [] : [value]) {
      const inner = new Scope(scope);
      inner.declare(name, item);
      await this.#block(named.get("do"), inner);
    }
    return undefined;
  }

  async #serialize({ named }: Statement, scope: Scope): Promise<Value> {
    const text = async (name: string) => {
      const expression = named.get(name);
      return expression && textOf(await this.#written(expression, scope));
    };
    if (await text("to") !== "json") throw new ConsoleError("input does not match any value of to");
    const options = await text("options") ?? "";
    if (options !== "" && options !== "json.no-string-conversion") {
      throw new ConsoleError("input does not match any value of options");
    }
    const expression = named.get("value");
    const value = expression && await this.#evaluate(expression, scope);
    if (this.#surroundings.noRows === "nothing" && Array.isArray(value) && value.length === 0) return "";
    return jsonOf(value, { convert: options === "", decimals: this.#surroundings.jsonDecimals ?? false });
  }
}

/** The name behind `:local`, `:set`, `:foreach`, `:onerror`. */
function nameIn(expression: Expression): string {
  if (expression.kind === "text" && /^[A-Za-z][A-Za-z0-9-]*$/.test(expression.text)) return expression.text;
  throw new ConsoleError("invalid value for argument name");
}
