import { run } from "../nvme/stand_in.ts";

/** A folder of a test's own. */
export interface LabFolder extends AsyncDisposable {
  path: string;
}

/** Makes a folder. Letting it go detaches the loop devices over its files and removes it, unless something is mounted in it. */
export async function labFolder(name: string): Promise<LabFolder> {
  const path = await Deno.makeTempDir({ prefix: `rds-csi-${name}-` });
  return {
    path,
    async [Symbol.asyncDispose]() {
      if (Deno.build.os === "linux" && Deno.uid() === 0) await detachLoops(path);
      const mounts = (await Deno.readTextFile("/proc/self/mountinfo")).split("\n");
      const inside = mounts.map((line) => line.split(" ")[4] ?? "").filter((target) => target.startsWith(`${path}/`));
      if (inside.length > 0) throw new Error(`${path} is left because of mounts in it: ${inside.join(", ")}`);
      await Deno.remove(path, { recursive: true });
    },
  };
}

/** Detaches the loop devices whose file lies in the folder. */
export async function detachLoops(folder: string): Promise<void> {
  const list = await run("losetup", "--list", "--json", "--output", "NAME,BACK-FILE");
  if (list.trim() === "") return;
  const { loopdevices }: { loopdevices: { name: string; "back-file": string | null }[] } = JSON.parse(list);
  for (const { name, "back-file": file } of loopdevices) {
    if (file?.startsWith(`${folder}/`)) await run("losetup", "--detach", name);
  }
}
