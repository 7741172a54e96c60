import type { CommandName } from "../config_commands.ts";
import type { Config } from "../config_read.ts";
import type { Check } from "./check.ts";
import { controllerChecks } from "./controller_checks.ts";
import { controllerWorld } from "./controller_world.ts";
import { nodeChecks } from "./node_checks.ts";
import { nodeWorld } from "./node_world.ts";

/** What a command of `diagnose` does in particular, for its `--help`. */
export function helpLines(command: CommandName): string[] {
  const checks = checksOf(command);
  if (checks.length === 0) return [];
  const width = Math.max(...checks.map(({ name }) => name.length));
  return [
    ...["", "Exit status: 0 all is well; 1 warnings, or things that could not be looked at; 2 errors."],
    ...["", "Checks:", ...checks.map(({ name, about }) => `  ${name.padEnd(width)}  ${about}`)],
  ];
}

/** The checks of a command; nothing is looked at. */
export function checksOf(command: CommandName): readonly Pick<Check, "name" | "about">[] {
  const nothing = { problems: [], version: "" };
  const config = {} as Config;
  if (command === "diagnose") return nodeChecks(nodeWorld(config, nothing));
  return command === "diagnose controller" ? controllerChecks(controllerWorld(config, nothing)) : [];
}
