/**
 * Builds the image on this machine without a registry: a Debian from the packages of its own mirror, Deno from the one that
 * runs this, buildah from Debian. As root. What was made before is taken from buildah's store.
 * here.ts [--program=bundled|compiled] [--output=FILE] [--store=FOLDER]
 * @module
 */
import { parseArgs } from "node:util";
import manifest from "../../deno.json" with { type: "json" };
import { deno, run } from "./build.ts";

const BASE = "localhost/rds-csi-debian";
/** What the image in the archive is called: `ctr image import` takes the name from there. */
export const NAME = `localhost/rds-csi:${manifest.version}`;
const source = new URL("../../", import.meta.url).pathname;

/** What can be chosen. */
export interface HereOptions {
  program: "bundled" | "compiled";
  /** Where the image goes. */
  output: string;
  /** The archive's form: `oci`, whose layers are compressed, or `docker`, whose are not: larger, and quicker to unpack. */
  form: "oci" | "docker";
  /** Where buildah keeps what it has made. */
  store: string;
}

/**
 * Builds the image.
 * @throws with what the failing program wrote
 */
export async function buildHere({ program, output, form, store }: HereOptions): Promise<void> {
  const buildah = (...args: string[]) =>
    run("buildah", ["--root", `${store}/root`, "--runroot", `${store}/run`, ...args]);
  await Deno.mkdir(store, { recursive: true });
  const suite = /^VERSION_CODENAME=(\S+)$/m.exec(await Deno.readTextFile("/etc/os-release"))?.[1] ?? "bookworm";
  const [debian, withDeno] = [`${BASE}:${suite}`, `localhost/rds-csi-deno:${Deno.version.deno}`];
  const has = (image: string) => buildah("inspect", "--type=image", image).then(() => true, () => false);
  if (!await has(debian)) await makeDebian(buildah, { suite, image: debian, store });
  if (!await has(withDeno)) await makeDeno(buildah, { from: debian, image: withDeno });
  await warmUp();
  const bases = { DENO_BASE: withDeno, TOOLS_BASE: debian, PROGRAM: program };
  const image = `localhost/rds-csi:${program}`;
  await buildah(
    ...["build", "--isolation=chroot", "--layers", "--pull-never", "--ignorefile", `${source}.containerignore`],
    ...Object.entries(bases).map(([name, value]) => `--build-arg=${name}=${value}`),
    // Deno's packages are there already, and so is what tells it where they came from.
    ...[`--volume=${await denoDir()}:/deno-dir:O`, "--env=DENO_DIR=/deno-dir"],
    ...[`--tag=${image}`, `--file=${source}Containerfile`, source],
  );
  await Deno.remove(output).catch(() => {});
  await buildah("push", image, `${form}-archive:${output}:${NAME}`);
}

type Buildah = (...args: string[]) => Promise<string>;

async function makeDebian(
  buildah: Buildah,
  { suite, image, store }: { suite: string; image: string; store: string },
): Promise<void> {
  const mirror = /\b(https?:\/\/\S+\/debian)\/? /.exec(await run("apt-cache", ["policy"]))?.[1];
  if (!mirror) throw new Error("apt knows no mirror of Debian here: this needs a Debian, or registries");
  const root = `${store}/debian`;
  await run("debootstrap", ["--variant=minbase", suite, root, mirror]);
  const container = (await buildah("from", "scratch")).trim();
  await buildah("add", container, root, "/");
  await buildah("commit", "--rm", container, image);
}

async function makeDeno(buildah: Buildah, { from, image }: { from: string; image: string }): Promise<void> {
  const container = (await buildah("from", "--pull-never", from)).trim();
  await buildah("copy", container, await Deno.realPath(Deno.execPath()), "/usr/local/bin/deno");
  await buildah("commit", "--rm", container, image);
}

/** Has all packages in Deno's cache that the build reads. */
async function warmUp(): Promise<void> {
  await deno(["cache", "--quiet", "main.ts"]);
}

async function denoDir(): Promise<string> {
  return JSON.parse(await deno(["info", "--json"])).denoDir;
}

if (import.meta.main) {
  const { values } = parseArgs({
    options: {
      program: { type: "string", default: "bundled" },
      output: { type: "string", default: `${source}dist/rds-csi.oci.tar` },
      store: { type: "string", default: `${Deno.env.get("HOME")}/.cache/rds-csi/buildah` },
    },
  });
  const program = values.program === "compiled" ? "compiled" : "bundled";
  await Deno.mkdir(values.output.slice(0, values.output.lastIndexOf("/")), { recursive: true });
  await buildHere({ program, form: "oci", output: values.output, store: values.store });
  Deno.stdout.writeSync(new TextEncoder().encode(`${values.output}: the ${program} program\n`));
}
