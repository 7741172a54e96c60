/**
 * Runs csi-sanity once, in namespaces of its own: arguments are its program, the volumes' access type and a folder.
 * @module
 */
import { startDriver } from "../lab/driver.ts";
import { print } from "../lab/layer.ts";

const [program = "", accessType = "", folder = ""] = Deno.args;

await using driver = await startDriver(folder);
const { success } = await new Deno.Command(program, {
  args: [
    `-csi.endpoint=unix://${driver.sockets.node}`,
    `-csi.controllerendpoint=unix://${driver.sockets.controller}`,
    `-csi.testvolumeaccesstype=${accessType}`,
    `-csi.mountdir=${driver.standIn.folder}/target`,
    `-csi.stagingdir=${driver.standIn.folder}/staging`,
    `-ginkgo.junit-report=${folder}/junit.xml`,
    "-ginkgo.no-color",
    "-ginkgo.succinct",
  ],
  stdin: "null",
}).spawn().status;
for (const { mode, output } of success ? [] : [driver.controller, driver.node, driver.simulator]) {
  print(`\n--- what the ${mode} wrote\n${output.split("\n").slice(-80).join("\n")}\n`);
}
Deno.exitCode = success ? 0 : 1;
