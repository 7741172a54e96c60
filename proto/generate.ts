/**
 * Makes `proto/gen` from the files in `proto`, with Debian's protoc and the pinned generator of protobuf-es.
 * @module
 */
import { Commands } from "../src/runtime/command.ts";

const GENERATOR = "npm:@bufbuild/protoc-gen-es@2.17.0";
/** What code is generated from. */
const sources = ["csi.proto", "plugin_registration.proto"];
const source = new URL(".", import.meta.url).pathname;

/**
 * Generates the code into an existing folder.
 * @throws {NotInstalled} without protoc
 */
export async function generate(folder: string): Promise<void> {
  const plugin = await Deno.makeTempFile({ prefix: "protoc-gen-es-" });
  try {
    // protoc starts its plugin by a path without arguments.
    const generator = `'${Deno.execPath()}' run --quiet --no-config --no-lock --allow-all ${GENERATOR}`;
    await Deno.writeTextFile(plugin, `#!/bin/sh\nexec ${generator} "$@"\n`);
    await Deno.chmod(plugin, 0o700);
    const { code, stderr } = await new Commands().run("protoc", [
      `--plugin=protoc-gen-es=${plugin}`,
      `--proto_path=${source}`,
      `--es_out=${folder}`,
      "--es_opt=target=ts,import_extension=ts",
      ...sources,
    ], { deadline: 120_000 });
    if (code !== 0) throw new Error(`protoc failed: ${stderr}`);
  } finally {
    await Deno.remove(plugin);
  }
}

if (import.meta.main) await generate(`${source}gen`);
