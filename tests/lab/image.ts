import { buildHere } from "../../deploy/image/here.ts";
import { needPrograms } from "./debian.ts";

/** Where the laboratories' image and its bases are kept. */
const store = `${Deno.env.get("XDG_CACHE_HOME") || `${Deno.env.get("HOME")}/.cache`}/rds-csi/buildah`;

/** Why no image can be built here, and what to do; `undefined` when all is there now. */
export async function whyNoImage(): Promise<string | undefined> {
  if (Deno.build.os !== "linux" || Deno.uid() !== 0) return "an image without a registry is built as root, in a Debian";
  return await needPrograms({ buildah: "buildah", debootstrap: "debootstrap" });
}

/** Builds the image of this checkout, with the bundled program. @returns the path of an archive */
export async function image(): Promise<string> {
  const output = `${store}/rds-csi.docker.tar`;
  await Deno.mkdir(store, { recursive: true });
  // Two tests that build at the same time build one after the other.
  using lock = await Deno.open(`${store}/lock`, { create: true, write: true });
  await lock.lock(true);
  await buildHere({ program: "bundled", form: "docker", output, store });
  return output;
}

/** Calls buildah on the laboratories' store. @throws with what it wrote, unless any exit code will do */
export async function buildah(
  args: readonly string[],
  options: { anyCode?: boolean } = {},
): Promise<{ code: number; text: string }> {
  const command = new Deno.Command("buildah", {
    args: ["--root", `${store}/root`, "--runroot", `${store}/run`, ...args],
    stdin: "null",
    signal: AbortSignal.timeout(300_000),
  });
  const { code, stdout, stderr } = await command.output();
  const text = new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
  if (code !== 0 && !options.anyCode) throw new Error(`buildah ${args.join(" ")} failed:\n${text}`);
  return { code, text };
}
