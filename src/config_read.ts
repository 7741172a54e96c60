import { parseArgs } from "node:util";
import { type Mode, modes, type Setting, settings } from "./config.ts";
import { type CommandName, commandNamed, commands } from "./config_commands.ts";
import { messageOf } from "./runtime/errors.ts";

type Table = typeof settings;
type Name = keyof Table;
/** Settings without default that are not given are undefined. */
export type Config = { [K in Name]: ReturnType<Table[K]["parse"]> };

/** What a command line asks for. */
export type Request =
  | { kind: "help"; command: CommandName | undefined }
  | { kind: "version" }
  | { kind: "run"; mode: Mode; config: Config; warnings: string[] }
  /** `problems`: settings of the environment that are wrong; their defaults are in the config. */
  | { kind: "command"; command: CommandName; config: Config; problems: string[] }
  | { kind: "wrong"; problems: string[] };

/** Flags of the Go driver that have no effect here, and why. Given, each is warned of once. */
export const withoutEffect: Readonly<Record<string, string>> = {
  "attachment-grace-period": "a volume is free when its attachment is gone, not when a time has passed",
  "attachment-reconcile-interval": "attachments are watched, not polled",
  "enable-orphan-reconciler": "orphans are always reported; --orphans says what else is done",
  "orphan-dry-run": "--orphans=delete is what deletes",
  "vmi-cache-ttl": "nothing is cached; --vmi-serialization-deadline limits the wait",
  "v": "use --log-level",
};

/** Reads flags (`--flag value`, `--flag=value`, also with one dash), then environment variables, then defaults. */
export function readConfig(args: readonly string[], env: Readonly<Record<string, string>>): Request {
  const { given, unknown, words } = readFlags(args);
  const command = commandNamed(words);
  if (given.has("help") || given.has("h")) return { kind: "help", command };
  if (given.has("version")) return { kind: "version" };
  const strange = command ? unknown : [...unknown, ...(words.length > 0 ? [`'${words.join(" ")}'`] : [])];
  const problems = strange.map((flag) => `${flag} is unknown: '--help' lists what there is`);
  if (command) return readCommand(command, { given, env, problems });
  const named = modesNamed(given, env);
  const mode = modes.find((mode) => named.length === 1 && named[0] === mode);
  if (!mode) {
    const said = named.length === 0 ? "no mode" : `the mode '${named.join("' and '")}' is not one`;
    problems.push(`${said}: write --mode=${modes.join(" or --mode=")}`);
  }
  const config: Record<string, unknown> = {};
  for (const [name, setting] of Object.entries(settings) as [Name, Setting<unknown>][]) {
    const value = readOne(setting, { given, env, mode });
    if (typeof value === "object" && value !== null && "problem" in value) problems.push(value.problem as string);
    else config[name] = value;
  }
  if (problems.length > 0 || !mode) return { kind: "wrong", problems };
  const warnings = Object.entries(withoutEffect).filter(([flag]) => given.has(flag))
    .map(([flag, why]) => `--${flag} has no effect: ${why}`);
  return { kind: "run", mode, config: { ...config, mode } as Config, warnings };
}

/** A command goes on where a mode does not start: what is wrong in the environment may be what somebody looks for. */
function readCommand(
  command: CommandName,
  from: { given: ReadonlyMap<string, string>; env: Readonly<Record<string, string>>; problems: string[] },
): Request {
  const { problems: wrong } = from;
  const problems: string[] = [];
  const { settings: used, required }: { settings: readonly Name[]; required: readonly Name[] } = commands[command];
  const config: Record<string, unknown> = {};
  for (const [name, setting] of Object.entries(settings) as [Name, Setting<unknown>][]) {
    const isUsed = used.includes(name);
    const value = readOne(setting, { ...from, mode: undefined });
    if (typeof value === "object" && value !== null && "problem" in value) {
      if (isUsed) (from.given.has(setting.flag) ? wrong : problems).push(value.problem as string);
      config[name] = setting.default === undefined ? undefined : setting.parse(setting.default);
    } else config[name] = value;
    if (!isUsed || !required.includes(name) || config[name] !== undefined) continue;
    wrong.push(`--${setting.flag} (or ${setting.env}) is required with '${command}'. ${setting.help}`);
  }
  if (wrong.length > 0) return { kind: "wrong", problems: [...wrong, ...problems] };
  return { kind: "command", command, config: config as Config, problems };
}

/** Switches that are in no table: what is asked of the program, and the Go driver's. */
const oldSwitches = [
  "help",
  "h",
  "version",
  "controller",
  "node",
  "enable-orphan-reconciler",
  "orphan-dry-run",
];

function readFlags(args: readonly string[]): { given: Map<string, string>; unknown: string[]; words: string[] } {
  const switches = new Set(oldSwitches);
  for (const setting of Object.values(settings)) if (setting.isSwitch) switches.add(setting.flag);
  const strings = [...Object.values(settings).map((setting) => setting.flag), ...Object.keys(withoutEffect)]
    .filter((flag) => !switches.has(flag));
  const options = Object.fromEntries([
    ...[...switches].map((flag) => [flag, { type: "boolean" as const }]),
    ...strings.map((flag) => [flag, { type: "string" as const }]),
  ]);
  const twoDashes = args.map((arg) => arg.replace(/^-(?=[a-z][a-z-])/, "--").replace(/^-(?=[vh](=|$))/, "--"));
  const { tokens } = parseArgs({ args: twoDashes, options, strict: false, tokens: true, allowPositionals: true });
  const given = new Map<string, string>();
  const unknown: string[] = [];
  const words: string[] = [];
  for (const token of tokens) {
    if (token.kind === "positional") words.push(token.value);
    else if (token.kind === "option" && Object.hasOwn(options, token.name)) {
      given.set(token.name, token.value ?? (switches.has(token.name) ? "true" : ""));
    } else if (token.kind === "option") unknown.push(`--${token.name}`);
  }
  return { given, unknown, words };
}

/** The Go driver's manifests say `-controller` or `-node` instead of a mode. */
function modesNamed(given: ReadonlyMap<string, string>, env: Readonly<Record<string, string>>): string[] {
  const old = modes.filter((mode) => given.get(mode) === "true");
  const said = given.get("mode") ?? (old.length === 0 ? env[settings.mode.env] : undefined);
  return [...new Set([...(said === undefined ? [] : [said]), ...old])];
}

function readOne(
  setting: Setting<unknown>,
  from: { given: ReadonlyMap<string, string>; env: Readonly<Record<string, string>>; mode: Mode | undefined },
): unknown {
  if (setting.flag === "mode") return undefined;
  const written = from.given.get(setting.flag) ?? from.env[setting.env];
  const value = written === "" && setting.default !== undefined ? setting.default : written ?? setting.default;
  const required = from.mode !== undefined && setting.required.includes(from.mode);
  if (value === undefined || (value === "" && required)) {
    return required
      ? { problem: `--${setting.flag} (or ${setting.env}) is required with --mode=${from.mode}. ${setting.help}` }
      : undefined;
  }
  try {
    return setting.parse(value);
  } catch (error) {
    const said = from.given.has(setting.flag) ? `--${setting.flag}` : setting.env;
    return { problem: `${said}='${value}' is wrong: ${messageOf(error)}` };
  }
}
