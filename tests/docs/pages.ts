import { settingsPage } from "../../src/config_help.ts";
import { parameters } from "../../src/volumes/parameters.ts";

const root = new URL("../../", import.meta.url);

function parametersPage(): string {
  const rows = parameters.map(({ name, default: standard, help }) =>
    `| \`${name}\` | ${standard && `\`${standard}\``} | ${help} |`
  );
  return [
    "# Parameters of a StorageClass",
    "Made from `src/volumes/parameters.ts` by `deno task docs`; do not edit. A parameter that is not listed is refused by name. " +
    "What the provisioner adds (`csi.storage.k8s.io/…`) is taken and kept in the volume context.",
    ["| parameter | default | meaning |", "| --- | --- | --- |", ...rows].join("\n"),
  ].join("\n\n") + "\n";
}

/** The reference pages that come from the code: path from the root of the project, and what must stand there. */
export function pages(): { path: URL; text: string }[] {
  return [
    { path: new URL("docs/reference/settings.md", root), text: settingsPage() },
    { path: new URL("docs/reference/parameters.md", root), text: parametersPage() },
  ];
}

if (import.meta.main) { for (const { path, text } of pages()) await Deno.writeTextFile(path, text); }
