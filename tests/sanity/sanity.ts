import { needPrograms } from "../lab/debian.ts";
import { labFolder } from "../lab/folder.ts";
import { goTool, whyNoGo } from "../lab/go_tools.ts";
import { type Case, parseJunit } from "../lab/junit.ts";
import { type Counts, type Layer, print } from "../lab/layer.ts";
import { inNamespace, whyNoNamespace } from "../lab/namespace.ts";
import { whyNoStandIn } from "../nvme/stand_in.ts";

const tool = { name: "csi-sanity", version: "v5.6.0", package: "github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity" };

/** Why csi-sanity leaves specs out that cannot run with this driver. Any other reason counts as a skip. */
const notAdvertised = [
  /(?:Create|Delete|Get|List)?Snapshots? not supported$/,
  /Volume Cloning not supported$/,
  /Modify ?Volume not supported$/i,
  /GroupControllerService not supported$/,
  /(?:VolumeHealth|StorageHealth) not supported$/,
  /ControllerPublishVolume\.readonly field not supported$/,
  // Only for drivers whose controller counts a node's volumes.
  /testnodevolumeattachlimit not enabled$/,
  // Its authors have switched it off.
  /^pending$/,
];

/** csi-sanity against controller, node and simulator as three processes, for mount and for block volumes. */
export const sanity: Layer = {
  name: "sanity",
  about: "csi-sanity against controller, node and simulator over SSH, with loop devices",
  needs: async () =>
    await whyNoGo() ??
      await needPrograms({ "mkfs.xfs": "xfsprogs", "mkfs.ext4": "e2fsprogs", losetup: "util-linux" }) ??
      await whyNoNamespace() ?? await whyNoStandIn(),
  async run() {
    const program = await goTool(tool);
    await using folder = await labFolder("sanity");
    const counts: Counts[] = [];
    for (const accessType of ["mount", "block"]) counts.push(await runOnce(program, accessType, folder.path));
    return {
      passed: counts.reduce((sum, { passed }) => sum + passed, 0),
      failed: counts.reduce((sum, { failed }) => sum + failed, 0),
      skipped: counts.flatMap(({ skipped }) => skipped),
    };
  },
};

async function runOnce(program: string, accessType: string, folder: string): Promise<Counts> {
  const own = `${folder}/${accessType}`;
  await Deno.mkdir(own);
  const args = [program, accessType, own];
  const code = await inNamespace(new URL("inside.ts", import.meta.url), { args, folder: own });
  return count(parseJunit(await Deno.readTextFile(`${own}/junit.xml`)), code, accessType);
}

/** Counts specs; those of features that are not advertised count as nothing. */
export function count(cases: readonly Case[], code: number, accessType: string): Counts {
  const specs = cases.filter(({ name }) => name.startsWith("[It]"));
  const left = specs.filter(({ state }) => state === "skipped");
  const unexpected = left.filter(({ reason }) => !notAdvertised.some((known) => known.test(reason)));
  const passed = specs.filter(({ state }) => state === "passed").length;
  const failed = cases.filter(({ state }) => state === "failed").length;
  print(
    `csi-sanity, ${accessType} volumes: ${passed} passed, ${failed} failed, ${
      left.length - unexpected.length
    } are of ` +
      "features that the driver does not have\n",
  );
  return {
    passed,
    failed: failed === 0 && (code !== 0 || passed === 0) ? 1 : failed,
    skipped: unexpected.map(({ name, reason }) => `csi-sanity (${accessType}) ${name}: ${reason}`),
  };
}
