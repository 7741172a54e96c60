import { posixRegExp } from "./posix_regexp.ts";
import { ConsoleError, type Expression, type Operator } from "./syntax.ts";
import { concatenate, numberIn, type Row, textOf, truthOf, type Value } from "./values.ts";

/** The value of an expression whose variables and brackets were worked out before; `row` gives its properties. */
export function compute(expression: Expression, row: Row = {}): Value {
  switch (expression.kind) {
    case "value":
      return expression.value;
    case "property":
      return row[expression.name];
    case "not":
      return !truthOf(compute(expression.of, row));
    case "minus":
      return operate("-", 0, compute(expression.of, row));
    case "all":
      return expression.of.every((one) => truthOf(compute(one, row)));
    case "any":
      return expression.of.some((one) => truthOf(compute(one, row)));
    case "binary":
      return operate(expression.operator, compute(expression.left, row), compute(expression.right, row));
    default:
      throw new TypeError(`${expression.kind} was not worked out`);
  }
}

/** The only names that rows can have which fulfil a condition; undefined when it does not say. */
export function namesIn(where: Expression): string[] | undefined {
  if (where.kind === "any") {
    const all = where.of.map(namesIn);
    return all.every((names) => names !== undefined) ? all.flat() : undefined;
  }
  if (where.kind === "all") return where.of.map(namesIn).find((names) => names !== undefined);
  const isName = where.kind === "binary" && where.operator === "=" && where.left.kind === "property" &&
    where.left.name === "name" && where.right.kind === "value";
  return isName ? [textOf((where.right as { value: Value }).value)] : undefined;
}

/** Computes. A number or boolean on the left makes the right side one too, if its text is such. */
function operate(operator: Operator, left: Value, right: Value): Value {
  switch (operator) {
    case "=":
      return equal(left, right);
    case "!=":
      return !equal(left, right);
    case "~":
      return left !== undefined && posixRegExp(textOf(right)).test(textOf(left));
    case ".":
      return concatenate(textOf(left), textOf(right));
    case "<":
    case ">":
    case "<=":
    case ">=":
      return ordered(operator, left, right);
    default: {
      const [a, b] = [numeric(left), numeric(right)];
      const result = operator === "+" ? a + b : operator === "-" ? a - b : a * b;
      if (!Number.isSafeInteger(result)) throw new ConsoleError("failure: number out of range");
      return result;
    }
  }
}

function equal(left: Value, right: Value): boolean {
  if (typeof left === "number" && typeof right === "string") return left === numberIn(right);
  if (typeof left === "boolean" && typeof right === "string") {
    return right === (left ? "yes" : "no") || right === String(left);
  }
  return textOf(left) === textOf(right);
}

function ordered(operator: "<" | ">" | "<=" | ">=", left: Value, right: Value): boolean {
  if (left === undefined || right === undefined) return false;
  const [a, b] = typeof left === "number" ? [left, numeric(right)] : [textOf(left), textOf(right)];
  return operator === "<" ? a < b : operator === ">" ? a > b : operator === "<=" ? a <= b : a >= b;
}

function numeric(value: Value): number {
  const number = typeof value === "number" ? value : value === undefined ? 0 : numberIn(textOf(value));
  if (number === undefined || typeof value === "boolean") {
    throw new ConsoleError("cannot do arithmetic with such values");
  }
  return number;
}
