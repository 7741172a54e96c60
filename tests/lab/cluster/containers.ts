import { needPrograms } from "../debian.ts";

/** Why no pods can be run here, and what to do; `undefined` when all is there now. */
export async function whyNoContainers(): Promise<string | undefined> {
  return await needPrograms({ containerd: "containerd", ctr: "containerd", runc: "runc", socat: "socat" });
}
