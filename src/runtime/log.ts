import { BaseHandler, getLogger, type LevelName, type LogRecord, setup } from "@std/log";

/** What is known besides the sentence: volume, node, milliseconds, code … */
export type Fields = Record<string, unknown>;

/** How lines look. */
export type LogFormat = "text" | "json";

const secrets = new Set<string>();
const hiddenField = /secret|password|private.?key|token/i;
const hidden = "(hidden)";

/** Makes sure that this text never stands in a line of the log. Texts under 6 characters are too common to hide. */
export function hideFromLog(secret: string): void {
  for (const line of [secret, ...secret.split("\n")]) if (line.trim().length >= 6) secrets.add(line.trim());
}

class StderrHandler extends BaseHandler {
  override log(line: string): void {
    Deno.stderr.writeSync(new TextEncoder().encode(`${line}\n`));
  }
}

/** Sends the log to standard error in this form. Without it nothing is logged (unit tests are silent). */
export function setupLog(options: { level: LevelName; format: LogFormat }): void {
  const formatter = options.format === "json" ? formatJson : formatText;
  setup({
    handlers: { stderr: new StderrHandler(options.level, { formatter }) },
    loggers: { default: { level: options.level, handlers: ["stderr"] } },
  });
}

function fieldsOf(record: LogRecord): Fields {
  const fields = record.args[0];
  return typeof fields === "object" && fields !== null ? fields as Fields : {};
}

/** A value as it may be shown: errors as their message, bigints as digits, whatever is named like a secret hidden. */
function visible(value: unknown, name = ""): unknown {
  if (hiddenField.test(name)) return hidden;
  if (typeof value === "bigint") return value.toString();
  if (value instanceof Error) return value.message;
  if (Array.isArray(value)) return value.map((item) => visible(item));
  if (typeof value === "object" && value !== null) {
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, visible(item, key)]));
  }
  return value;
}

function withoutSecrets(line: string): string {
  for (const secret of secrets) line = line.replaceAll(secret, hidden);
  return line;
}

/** One record as one line of JSON. */
export function formatJson(record: LogRecord): string {
  const { time, level, msg } = { time: record.datetime.toISOString(), level: record.levelName, msg: record.msg };
  return withoutSecrets(JSON.stringify({ time, level, msg, ...visible(fieldsOf(record)) as Fields }));
}

/** One record as one line for people: time, level, sentence, `name=value` pairs. */
export function formatText(record: LogRecord): string {
  const pairs = Object.entries(visible(fieldsOf(record)) as Fields)
    .filter(([, value]) => value !== undefined)
    .map(([name, value]) =>
      ` ${name}=${typeof value === "string" && /^[\w./:@-]+$/.test(value) ? value : JSON.stringify(value)}`
    );
  const sentence = record.msg.replaceAll(/[\r\n]+/g, " | ");
  return withoutSecrets(`${record.datetime.toISOString()} ${record.levelName.padEnd(5)} ${sentence}${pairs.join("")}`);
}

/** The process's log. */
export const log = {
  debug: (sentence: string, fields: Fields = {}) => void getLogger().debug(sentence, fields),
  info: (sentence: string, fields: Fields = {}) => void getLogger().info(sentence, fields),
  warn: (sentence: string, fields: Fields = {}) => void getLogger().warn(sentence, fields),
  error: (sentence: string, fields: Fields = {}) => void getLogger().error(sentence, fields),
};
