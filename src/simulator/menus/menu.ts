import { ConsoleError } from "../syntax.ts";
import { showRow, showTable } from "../text_output.ts";
import { type Row, textOf, type Value } from "../values.ts";

/** A test for rows. */
export interface RowTest {
  matches: (row: Row) => boolean;
  /** The only values of `name` that can fulfil it, where it says so. */
  names?: readonly string[];
}

/** One call of a command. Parameters are texts. */
export interface Call extends Partial<RowTest> {
  named: Readonly<Record<string, string>>;
  flags: ReadonlySet<string>;
  unnamed: readonly Value[];
  /** Called inside `[ … ]`: its value is used. */
  inBrackets: boolean;
  output: (line: string) => void;
}

/** A command of a menu. */
export interface Command {
  run: (call: Call) => Value | Promise<Value>;
  /** The properties that a condition may name. */
  properties?: readonly string[];
}

/** All menus by path, commands by verb. */
export type Menus = Readonly<Record<string, Readonly<Record<string, Command>>>>;

/** A menu that holds rows. */
export interface Table {
  properties: readonly string[];
  /** The properties of all rows, or at least of those that can have one of the names. */
  rows: (names?: readonly string[]) => Iterable<Row>;
  /** The letters in front of a row, and what they mean; no such line when left out. */
  flags?: { legend: string; of: (row: Row) => string };
  /** What `print as-value` gives without `detail`. */
  brief: readonly string[];
  /** The row with that id or name, where that is faster than to look at all. */
  lookUp: (item: string) => Row | undefined;
  /** Numbers of bytes that the text form rounds. */
  rounded?: ReadonlySet<string>;
  /** Width of the text form in columns. */
  width: number;
}

/** `find`, `print` and `get` of a menu with rows. */
export function tableCommands(table: Table): Record<"find" | "print" | "get", Command> {
  const { properties } = table;
  return {
    find: {
      properties,
      run: (call) => chosen(table, call).map(({ row }) => row[".id"]),
    },
    print: { properties, run: (call) => print(table, call) },
    get: {
      run: ({ named, unnamed: [item, name] }) => {
        const row = theRow(table, named["number"] ?? item);
        const wanted = named["value-name"] ?? (name === undefined ? undefined : textOf(name));
        if (wanted === undefined) return row;
        if (!properties.includes(wanted)) throw new ConsoleError("input does not match any value of value-name");
        return row[wanted];
      },
    },
  };
}

/** The ids in what was given for the rows to change. @throws {ConsoleError} for one that is not there */
export function rowsOf(table: Table, call: Call): Row[] {
  const given = call.named["numbers"] ?? call.unnamed[0];
  if (given === undefined) throw new ConsoleError("missing value(s) of argument(s) numbers");
  const names = Array.isArray(given) ? given.map(textOf) : textOf(given).split(/[;,]/).filter((name) => name !== "");
  return names.map((name) => theRow(table, name));
}

function theRow(table: Table, item: Value): Row {
  const row = table.lookUp(textOf(item));
  if (!row) throw new ConsoleError("no such item");
  return row;
}

function chosen(table: Table, { matches, names }: Call): { row: Row; number: number }[] {
  const all: { row: Row; number: number }[] = [];
  let number = 0;
  for (const row of table.rows(names)) {
    if (!matches || matches(row)) all.push({ row, number });
    number++;
  }
  return all;
}

function print(table: Table, call: Call): Value {
  const rows = chosen(table, call);
  const proplist = call.named["proplist"]?.split(",");
  const unknown = proplist?.find((name) => !table.properties.includes(name));
  if (unknown !== undefined) throw new ConsoleError("input does not match any value of proplist");
  if (call.flags.has("count-only")) {
    if (!call.inBrackets) call.output(String(rows.length));
    return rows.length;
  }
  const wanted = proplist ?? (call.flags.has("detail") ? undefined : table.brief);
  const pick = (row: Row): Row =>
    wanted
      ? Object.fromEntries(wanted.filter((name) => row[name] !== undefined).map((name) => [name, row[name]]))
      : row;
  if (call.flags.has("as-value")) return rows.map(({ row }) => pick(row));
  const shown = rows.map(({ row, number }) => ({ row: pick(row), number, flags: table.flags?.of(row) ?? "" }));
  const { flags, rounded, width } = table;
  for (const line of showTable(shown, { legend: flags?.legend, rounded, width })) call.output(line);
  return undefined;
}

/** `print` and `get` of a menu that is one row. */
export function singleCommands(row: () => Row): Record<"print" | "get", Command> {
  return {
    print: {
      run: (call) => {
        if (call.flags.has("as-value")) return row();
        for (const line of showRow(row())) call.output(line);
        return undefined;
      },
    },
    get: {
      run: ({ named, unnamed: [name] }) => {
        const wanted = named["value-name"] ?? textOf(name);
        if (wanted === "") return row();
        if (!Object.hasOwn(row(), wanted)) throw new ConsoleError("input does not match any value of value-name");
        return row()[wanted];
      },
    },
  };
}
