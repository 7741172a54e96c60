/**
 * Run in the Containerfile's stage `program`: puts the program and its bill of materials under a root.
 * make.ts compiled|bundled ROOT PACKAGES
 * @module
 */
import { bundleToStart, compile } from "./build.ts";
import { billOfMaterials } from "./sbom.ts";

const [form = "", root = "", packages = ""] = Deno.args;
const lib = "/usr/local/lib/rds-csi";
for (const folder of [lib, "/usr/local/bin"]) await Deno.mkdir(`${root}${folder}`, { recursive: true });
switch (form) {
  case "compiled":
    await compile(`${root}${lib}/rds-csi`);
    break;
  case "bundled":
    await bundleToStart(`${root}${lib}`, lib);
    await Deno.copyFile(await Deno.realPath(Deno.execPath()), `${root}/usr/local/bin/deno`);
    break;
  default:
    throw new Error(`PROGRAM=${form} is neither compiled nor bundled`);
}
await Deno.mkdir(`${root}/usr/share/rds-csi`, { recursive: true });
const bill = billOfMaterials(await Deno.readTextFile(packages), await Deno.readTextFile("deno.lock"));
await Deno.writeTextFile(`${root}/usr/share/rds-csi/sbom.spdx.json`, JSON.stringify(bill, undefined, 1));
