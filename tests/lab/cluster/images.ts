import { run } from "../../nvme/stand_in.ts";

/** What pods of the tests are made from: a busybox without libraries. The pause container sleeps, too. */
export const BUSYBOX = "localhost/busybox:lab";

/** Writes an image with busybox alone, as `ctr image import` takes it. @returns the path of the archive */
export async function busyboxImage(folder: string): Promise<string> {
  const root = `${folder}/busybox-root`;
  await Deno.mkdir(`${root}/bin`, { recursive: true });
  await Deno.mkdir(`${root}/tmp`);
  await run("sh", "-c", 'cp "$(command -v busybox)" "$0/bin/busybox"', root);
  const applets = (await run("busybox", "--list")).trim().split("\n").filter((name) => name !== "busybox");
  for (const name of applets) await Deno.symlink("busybox", `${root}/bin/${name}`);
  const layer = `${folder}/layer.tar`;
  await run("tar", "-C", root, "-cf", layer, ".");
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", await Deno.readFile(layer))).toHex();
  const config = {
    ...{ architecture: "amd64", os: "linux" },
    config: { Cmd: ["/bin/sleep", "2147483647"], Env: ["PATH=/bin"] },
    rootfs: { type: "layers", diff_ids: [`sha256:${digest}`] },
  };
  await Deno.writeTextFile(`${folder}/config.json`, JSON.stringify(config));
  const manifest = [{ Config: "config.json", RepoTags: [BUSYBOX], Layers: ["layer.tar"] }];
  await Deno.writeTextFile(`${folder}/manifest.json`, JSON.stringify(manifest));
  const archive = `${folder}/busybox.tar`;
  await run("tar", "-C", folder, "-cf", archive, "manifest.json", "config.json", "layer.tar");
  return archive;
}
