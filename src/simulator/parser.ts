import { commands } from "./forms.ts";
import {
  type CommandForm,
  ConsoleError,
  type Expression,
  type Forms,
  type Operator,
  type Statement,
} from "./syntax.ts";

/** Deeper nesting than this is refused. */
const DEEPEST = 40;
/** Longer sums and products are refused. */
const LONGEST_SUM = 500;
/** The longest line, in characters. */
const LONGEST = 65_536;

/** What stands behind a backslash in a text, and what it means there (besides two digits of a code). */
const escapes = new Map(
  ['""', "\\\\", "$$", "??", "_ ", "a\x07", "b\b", "f\f", "n\n", "r\r", "t\t", "v\v"].map((
    [name, meant],
  ) => [name, meant]),
);

/** Operators, the loosest first. */
const levels = [/\|\||or(?![A-Za-z0-9-])/y, /&&|and(?![A-Za-z0-9-])/y, /!=|<=|>=|[=<>~]/y, /[+.-]/y, /\*/y];
const [AND, COMPARISON] = [1, 2];

/** How words are read: as a parameter's value, in a calculation, or on either side of a condition. */
type Mode = "value" | "calculation" | "left" | "right";

const words: Record<Mode, RegExp> = {
  value: /[A-Za-z0-9._\/:*@,+-]+/y,
  calculation: /\d+[KMGT]?|[A-Za-z][A-Za-z0-9_]*/y,
  left: /\.?[A-Za-z][A-Za-z0-9-]*/y,
  right: /[A-Za-z0-9._*-]+/y,
};

/**
 * Parses one line of the console. All mistakes of form are found here, before anything runs.
 * @param line one line, without line ends
 * @param forms the commands there are
 * @throws {ConsoleError} with RouterOS' text and the place of the mistake
 */
export function parse(line: string, forms: Forms = commands): Statement[] {
  return new Parser(line, forms).line();
}

class Parser {
  readonly #line: string;
  readonly #forms: Forms;
  #at = 0;
  #depth = 0;

  constructor(line: string, forms: Forms) {
    this.#line = line;
    this.#forms = forms;
  }

  line(): Statement[] {
    if (this.#line.length > LONGEST) this.#fail("syntax error", LONGEST);
    const broken = /[\r\n\0]/.exec(this.#line);
    if (broken) this.#fail("syntax error", broken.index);
    const statements = this.#statements("");
    if (this.#at < this.#line.length) this.#fail("syntax error");
    return statements;
  }

  #fail(text: string, at = this.#at): never {
    throw new ConsoleError(`${text} (line 1 column ${at + 1})`);
  }

  #peek(text: string): boolean {
    return this.#line.startsWith(text, this.#at);
  }

  #accept(text: string): boolean {
    if (!this.#peek(text)) return false;
    this.#at += text.length;
    return true;
  }

  #expect(text: string): void {
    if (!this.#accept(text)) this.#fail("syntax error");
  }

  #match(pattern: RegExp): string | undefined {
    pattern.lastIndex = this.#at;
    const found = pattern.exec(this.#line)?.[0];
    this.#at += found?.length ?? 0;
    return found;
  }

  #looksLike(pattern: RegExp): boolean {
    pattern.lastIndex = this.#at;
    return pattern.test(this.#line);
  }

  #blanks(): boolean {
    return this.#match(/[ \t]+/y) !== undefined;
  }

  #nested<T>(read: () => T): T {
    if (++this.#depth > DEEPEST) this.#fail("syntax error");
    const result = read();
    this.#depth--;
    return result;
  }

  #statements(base: string): Statement[] {
    const statements: Statement[] = [];
    let menu = base;
    for (;;) {
      this.#blanks();
      if (this.#accept(";")) continue;
      if (this.#atEnd()) return statements;
      const statement = this.#statement(menu);
      if (typeof statement === "string") menu = statement;
      else statements.push(statement);
      if (!this.#atEnd() && !this.#peek(";")) this.#fail("expected end of command");
    }
  }

  #atEnd(): boolean {
    return this.#at >= this.#line.length || this.#peek("]") || this.#peek("}");
  }

  /** A command, or the path of the menu that a path alone changes to. */
  #statement(base: string): Statement | string {
    if (this.#accept(":")) return this.#global(base);
    let menu = this.#accept("/") ? "" : base;
    for (;;) {
      const start = this.#at;
      const name = this.#name();
      const inner = menu === "" ? name : `${menu}/${name}`;
      if (menu !== "" && this.#form(menu, name)) return this.#command(menu, name, menu);
      if (!Object.keys(this.#forms).some((path) => path === inner || path.startsWith(`${inner}/`))) {
        this.#fail(`bad command name ${name}`, start);
      }
      menu = inner;
      const goesOn = this.#accept("/") || this.#blanks();
      if (this.#atEnd() || this.#peek(";") || !goesOn) return menu;
    }
  }

  #global(base: string): Statement {
    const start = this.#at;
    const name = this.#name();
    if (!this.#form("", name)) this.#fail(`bad command name ${name}`, start);
    return this.#command("", name, base);
  }

  #name(): string {
    return this.#match(/[A-Za-z][A-Za-z0-9-]*/y) ??
      this.#fail(this.#atEnd() ? "expected command name" : "syntax error");
  }

  #form(menu: string, verb: string): CommandForm | undefined {
    const forms = this.#forms[menu];
    return forms && Object.hasOwn(forms, verb) ? forms[verb] : undefined;
  }

  /** What stands behind a command's name. `base` is the menu that commands in brackets are looked for in. */
  #command(menu: string, verb: string, base: string): Statement {
    const form = this.#form(menu, verb) ?? {};
    const statement: Statement = { menu, verb, named: new Map(), flags: new Set(), unnamed: [] };
    for (;;) {
      const apart = this.#blanks();
      if (this.#atEnd() || this.#peek(";")) return statement;
      if (!apart) this.#fail("expected end of command");
      if (form.where && (this.#match(/where(?![A-Za-z0-9=~-])/y) || form.where === "bare")) {
        this.#blanks();
        statement.where = this.#expression("left", base);
        this.#blanks();
        return statement;
      }
      this.#argument(statement, form, base);
    }
  }

  #argument(statement: Statement, form: CommandForm, base: string): void {
    const start = this.#at;
    const word = this.#match(/[A-Za-z][A-Za-z0-9-]*(?==)/y);
    if (word !== undefined) {
      if (!form.named?.includes(word)) this.#fail("expected end of command", start);
      if (statement.named.has(word)) this.#fail("syntax error", start);
      this.#expect("=");
      statement.named.set(word, this.#parameter(base));
      return;
    }
    const flag = this.#match(/[a-z][a-z-]*(?=[ \t;\]}]|$)/y);
    if (flag !== undefined && form.flags?.includes(flag)) {
      statement.flags.add(flag);
      return;
    }
    this.#at = start;
    if (statement.unnamed.length >= (form.unnamed ?? 0)) this.#fail("expected end of command");
    statement.unnamed.push(this.#primary("value", base));
  }

  #parameter(base: string): Expression {
    const isEmpty = this.#atEnd() || this.#looksLike(/[ \t;]/y);
    return isEmpty ? { kind: "text", text: "", quoted: false } : this.#primary("value", base);
  }

  /** Operators of this level and the tighter ones; on the right of a comparison words are values, not properties. */
  #expression(mode: Mode, base: string, level = 0): Expression {
    const pattern = levels[level];
    if (!pattern) return this.#unary(mode, base);
    let left = this.#expression(mode, base, level + 1);
    const of = [left];
    for (let operator; (operator = this.#operator(pattern) ?? this.#juxtaposed(mode, level)) !== undefined;) {
      const right = this.#expression(mode === "left" && level === COMPARISON ? "right" : mode, base, level + 1);
      of.push(right);
      if (level > COMPARISON && of.length > LONGEST_SUM) this.#fail("syntax error");
      left = { kind: "binary", operator: operator as Operator, left, right };
      if (level === COMPARISON) return left;
    }
    return level < COMPARISON && of.length > 1 ? { kind: level === AND ? "all" : "any", of } : left;
  }

  /** Conditions one after the other, with blanks only, must all hold. */
  #juxtaposed(mode: Mode, level: number): "and" | undefined {
    const follows = mode === "left" && level === AND && /[ \t]/.test(this.#line[this.#at - 1] ?? "") &&
      !this.#looksLike(/or[ \t(]/y) && this.#looksLike(/\.?[A-Za-z][A-Za-z0-9-]*[ \t]*(=|!=|~|<|>)/y);
    return follows ? "and" : undefined;
  }

  #operator(pattern: RegExp): string | undefined {
    this.#blanks();
    const found = this.#match(pattern);
    if (found !== undefined) this.#blanks();
    return found;
  }

  #unary(mode: Mode, base: string): Expression {
    if (this.#peek("!") && !this.#peek("!=")) {
      this.#at++;
      this.#blanks();
      return { kind: "not", of: this.#nested(() => this.#unary(mode, base)) };
    }
    if (mode === "calculation" && this.#accept("-")) {
      return { kind: "minus", of: this.#nested(() => this.#unary(mode, base)) };
    }
    return this.#primary(mode, base);
  }

  #primary(mode: Mode, base: string): Expression {
    if (this.#accept('"')) return this.#quoted(base);
    if (this.#accept("$")) return this.#variable();
    if (this.#accept("[")) return this.#bracket(base);
    if (this.#accept("(")) return this.#parenthesis(mode === "left" ? "left" : "calculation", base);
    if (mode === "value" && this.#accept("{")) return this.#block();
    const text = this.#match(words[mode]);
    if (text === undefined) this.#fail("syntax error");
    return mode === "left" ? { kind: "property", name: text } : { kind: "text", text, quoted: false };
  }

  #bracket(base: string): Expression {
    const statements = this.#nested(() => this.#statements(base));
    this.#expect("]");
    return { kind: "substitution", statements };
  }

  #block(): Expression {
    const statements = this.#nested(() => this.#statements(""));
    this.#expect("}");
    return { kind: "block", statements };
  }

  #parenthesis(mode: Mode, base: string): Expression {
    this.#blanks();
    const inner = this.#nested(() => this.#expression(mode, base));
    this.#blanks();
    this.#expect(")");
    return inner;
  }

  #variable(): Expression {
    const name = this.#match(/[A-Za-z][A-Za-z0-9]*/y);
    if (name === undefined) this.#fail("syntax error");
    return { kind: "variable", name };
  }

  #quoted(base: string): Expression {
    const parts: Expression[] = [];
    let text = "";
    while (!this.#accept('"')) {
      text += this.#match(/[^"\\$]+/y) ?? "";
      if (this.#at >= this.#line.length) this.#fail("syntax error");
      if (this.#accept("\\")) text += this.#escape();
      else if (this.#accept("$")) {
        parts.push({ kind: "text", text, quoted: true }, this.#nested(() => this.#expansion(base)));
        text = "";
      }
    }
    if (parts.length === 0) return { kind: "text", text, quoted: true };
    return { kind: "expansion", parts: [...parts, { kind: "text", text, quoted: true }] };
  }

  #expansion(base: string): Expression {
    if (this.#accept("[")) return this.#bracket(base);
    if (this.#accept("(")) return this.#parenthesis("calculation", base);
    return this.#variable();
  }

  #escape(): string {
    const code = this.#match(/[0-9A-F]{2}/y);
    if (code !== undefined) return String.fromCharCode(parseInt(code, 16));
    const known = escapes.get(this.#line[this.#at]);
    if (known === undefined) this.#fail("syntax error");
    this.#at++;
    return known;
  }
}
