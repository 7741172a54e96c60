import { goTool } from "../lab/go_tools.ts";
import { type Output } from "../../src/runtime/command.ts";
import { run } from "./tools.ts";

const tool = { name: "kubeconform", version: "v0.6.7", package: "github.com/yannh/kubeconform/cmd/kubeconform" };

/** The path of kubeconform, built once into the tests' cache. */
export function kubeconformPath(): Promise<string> {
  return goTool(tool);
}

/** A schema as OpenAPI v2 has it, the part of it that is read. */
interface Definition {
  properties?: object;
  format?: string;
  "x-kubernetes-group-version-kind"?: { group: string; version: string; kind: string }[];
}

/**
 * Writes what an API server says of its kinds (`/openapi/v2`) as kubeconform looks for it: its usual schemas come from a
 * server on the internet, and know no custom resources. No field may stand in an object that its kind does not have.
 */
export async function writeSchemas(folder: string, openapi: string): Promise<void> {
  const { definitions }: { definitions: Record<string, Definition> } = JSON.parse(openapi);
  const all = Object.fromEntries(Object.entries(definitions).map(([name, schema]) => [name, strict(name, schema)]));
  await Deno.writeTextFile(`${folder}/all.json`, JSON.stringify({ definitions: all }));
  for (const [name, { "x-kubernetes-group-version-kind": kinds = [] }] of Object.entries(definitions)) {
    for (const { group, version, kind } of kinds) {
      const file = [kind.toLowerCase(), ...group === "" ? [] : [group.split(".")[0]], version].join("-");
      await Deno.writeTextFile(`${folder}/${file}.json`, JSON.stringify({ $ref: `all.json#/definitions/${name}` }));
    }
  }
}

function strict(name: string, schema: Definition): object {
  if (schema.format === "int-or-string") return { type: ["integer", "string"] };
  if (name.endsWith(".resource.Quantity")) return { type: ["number", "string"] };
  return schema.properties ? { additionalProperties: false, ...schema } : schema;
}

/** Runs kubeconform on a file with the schemas of a folder. */
export async function conform(folder: string, file: string): Promise<Output> {
  const schemas = `${folder}/{{ .ResourceKind }}{{ .KindSuffix }}.json`;
  return await run(await kubeconformPath(), "-strict", "-schema-location", schemas, file);
}
