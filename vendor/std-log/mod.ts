/**
 * A stand-in for `jsr:@std/log` for machines that cannot reach JSR: a strict subset of its API, with the same names,
 * signatures and meaning. Remove the `links` line in deno.json to use the original; nothing else has to change.
 * @module
 */

/** The levels, as numbers. */
export const LogLevels = { NOTSET: 0, DEBUG: 10, INFO: 20, WARN: 30, ERROR: 40, CRITICAL: 50 } as const;
/** A level's name. */
export type LevelName = keyof typeof LogLevels;
/** A level's number. */
export type LogLevel = (typeof LogLevels)[LevelName];

function levelName(level: LogLevel): LevelName {
  for (const [name, value] of Object.entries(LogLevels)) if (value === level) return name as LevelName;
  throw new Error(`Cannot get log level: no level name for level: ${level}`);
}

/** What a logger makes of one call. */
export class LogRecord {
  readonly msg: string;
  readonly level: number;
  readonly levelName: string;
  readonly loggerName: string;
  readonly #args: unknown[];
  readonly #datetime = new Date();

  constructor(options: { msg: string; args: unknown[]; level: LogLevel; loggerName: string }) {
    this.msg = options.msg;
    this.#args = [...options.args];
    this.level = options.level;
    this.levelName = levelName(options.level);
    this.loggerName = options.loggerName;
  }
  get args(): unknown[] {
    return [...this.#args];
  }
  get datetime(): Date {
    return new Date(this.#datetime.getTime());
  }
}

/** Turns a record into a line. */
export type FormatterFunction = (logRecord: LogRecord) => string;

/** The base of all handlers: filters by level, formats, and hands the text to `log`. */
export abstract class BaseHandler {
  readonly #level: LogLevel;
  formatter: FormatterFunction;

  constructor(levelName: LevelName, options?: { formatter?: FormatterFunction }) {
    this.#level = LogLevels[levelName];
    this.formatter = options?.formatter ?? ((record) => `${record.levelName} ${record.msg}`);
  }
  handle(logRecord: LogRecord): void {
    if (this.#level > logRecord.level) return;
    this.log(this.format(logRecord));
  }
  format(logRecord: LogRecord): string {
    return this.formatter(logRecord);
  }
  abstract log(msg: string): void;
  setup() {}
  destroy() {}
}

/** Hands every record at or above its level to its handlers. */
export class Logger {
  readonly #name: string;
  readonly #level: LogLevel;
  readonly handlers: BaseHandler[];

  constructor(loggerName: string, levelName: LevelName, options: { handlers?: BaseHandler[] } = {}) {
    this.#name = loggerName;
    this.#level = LogLevels[levelName];
    this.handlers = options.handlers ?? [];
  }
  get loggerName(): string {
    return this.#name;
  }
  #log(level: LogLevel, msg: string, args: unknown[]): string {
    if (this.#level > level) return msg;
    const record = new LogRecord({ msg, args, level, loggerName: this.#name });
    for (const handler of this.handlers) handler.handle(record);
    return msg;
  }
  debug(msg: string, ...args: unknown[]): string {
    return this.#log(LogLevels.DEBUG, msg, args);
  }
  info(msg: string, ...args: unknown[]): string {
    return this.#log(LogLevels.INFO, msg, args);
  }
  warn(msg: string, ...args: unknown[]): string {
    return this.#log(LogLevels.WARN, msg, args);
  }
  error(msg: string, ...args: unknown[]): string {
    return this.#log(LogLevels.ERROR, msg, args);
  }
}

/** What `setup` takes. */
export interface LogConfig {
  handlers?: Record<string, BaseHandler>;
  loggers?: Record<string, { level?: LevelName; handlers?: string[] }>;
}

const loggers = new Map<string, Logger>();

/** Makes the loggers of the configuration known to `getLogger`. */
export function setup(config: LogConfig): void {
  loggers.clear();
  for (const handler of Object.values(config.handlers ?? {})) handler.setup();
  for (const [name, logger] of Object.entries(config.loggers ?? {})) {
    const handlers = (logger.handlers ?? []).flatMap((handler) => config.handlers?.[handler] ?? []);
    loggers.set(name, new Logger(name, logger.level ?? "INFO", { handlers }));
  }
}

/** The logger of that name, or a silent one when `setup` named none. */
export function getLogger(name = "default"): Logger {
  const known = loggers.get(name);
  if (known) return known;
  const silent = new Logger(name, "NOTSET", { handlers: [] });
  loggers.set(name, silent);
  return silent;
}
