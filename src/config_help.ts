import { modes, type Setting, settings } from "./config.ts";
import { type Command, type CommandName, commands } from "./config_commands.ts";
import { withoutEffect } from "./config_read.ts";

const all: readonly Setting<unknown>[] = Object.values(settings);

const sections = [
  { title: "All modes", of: (setting: Setting<unknown>) => setting.modes.length === 0 },
  { title: "Controller and node", of: (setting: Setting<unknown>) => setting.modes.length === 2 },
  ...modes.map((mode) => ({
    title: mode[0]?.toUpperCase() + mode.slice(1),
    of: (setting: Setting<unknown>) => setting.modes.length === 1 && setting.modes.includes(mode),
  })),
  { title: "Commands", of: (setting: Setting<unknown>) => setting.modes.includes("command") },
];

/** The text of `--help`. */
export function helpText(version: string): string {
  const lines = [
    `rds-csi ${version}: Kubernetes volumes on a MikroTik RouterOS storage server over NVMe/TCP`,
    "",
    "  rds-csi --mode=controller --rds-address=10.0.0.1 …   CSI controller",
    "  rds-csi --mode=node --node-id=$NODE_NAME …           CSI node",
    "  rds-csi --mode=simulator …                           a RouterOS to try it with, without hardware",
    "  rds-csi --help | --version",
    ...Object.keys(commands).map((name) => `  rds-csi ${name} [--help]`),
  ];
  for (const { title, of } of sections) {
    lines.push("", `${title}:`);
    for (const setting of all.filter(of)) lines.push(...helpLines(setting));
  }
  lines.push(
    "",
    "Flags of the Go driver that are taken and have no effect:",
    `  ${Object.keys(withoutEffect).join(", ")}`,
  );
  return lines.join("\n") + "\n";
}

/** The text of `<command> --help`. @param more what it does in particular, a line each */
export function commandHelp(
  name: CommandName,
  { version, more }: { version: string; more: readonly string[] },
): string {
  const { about, settings: used, required }: Command = commands[name];
  const lines = [`rds-csi ${version}`, "", `  rds-csi ${name} [settings]`, "", ...about, ...more, "", "Settings:"];
  for (const each of used) lines.push(...helpLines(settings[each], required.includes(each)));
  lines.push("", "All other settings are taken and left alone.");
  return lines.join("\n") + "\n";
}

function helpLines(setting: Setting<unknown>, isRequired = setting.required.length > 0): string[] {
  const notes = [
    isRequired ? "required" : "",
    setting.default ? `default ${setting.default}` : "",
    setting.env,
  ].filter((note) => note !== "").join(", ");
  return [`  --${setting.flag}`, `      ${setting.help}`, `      (${notes})`];
}

/** The reference page of the settings, in Markdown. */
export function settingsPage(): string {
  const parts = [
    "# Settings",
    "Made from `src/config.ts` by `deno task docs`; do not edit. A flag is written `--flag=value` or `--flag value`; one dash works too. " +
    "Where the flag is not given the environment variable is read, then the default is taken. Wrong settings are reported all at once, and the program ends with status 2.",
  ];
  for (const { title, of } of sections) {
    const rows = all.filter(of).map((setting) => {
      const standard = setting.required.length > 0 ? "**required**" : setting.default ? `\`${setting.default}\`` : "";
      return `| \`--${setting.flag}\` | ${standard} | ${setting.help} | \`${setting.env}\` |`;
    });
    parts.push(
      `## ${title}`,
      ["| flag | default | meaning | environment |", "| --- | --- | --- | --- |", ...rows].join("\n"),
    );
  }
  const old = Object.entries(withoutEffect).map(([flag, why]) => `| \`--${flag}\` | ${why} |`);
  parts.push(
    "## Flags of the Go driver without effect",
    "They are taken, so that its manifests go on working, and each is warned of once. `--controller` and `--node` mean `--mode=controller` and `--mode=node`.",
    ["| flag | why |", "| --- | --- |", ...old].join("\n"),
  );
  return parts.join("\n\n") + "\n";
}
