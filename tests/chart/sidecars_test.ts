import { assertEquals, assertStringIncludes } from "@std/assert";
import { kubernetesTool } from "../lab/kubernetes/tools.ts";
import { least, objectsOf, render } from "./chart.ts";
import { run } from "./tools.ts";

for (const name of ["csi-provisioner", "csi-attacher", "csi-resizer"] as const) {
  Deno.test(`${name} knows each of its arguments, and is the version that the tests run`, async () => {
    const controller = objectsOf(await render(least)).find(({ kind }) => kind === "Deployment");
    const container = controller?.spec?.template?.spec.containers.find((each) => each.name === name) as unknown as {
      image: string;
      args: string[];
    };
    const program = await kubernetesTool(name);
    // It reads all arguments before it says its version.
    const { code, stdout, stderr } = await run(program, ...container.args, "--version");
    assertEquals(code, 0, stderr);
    const version = container.image.split(":")[1] ?? "none";
    assertStringIncludes(stdout + stderr, version);
    const unknown = await run(program, ...container.args, "--no-such-argument", "--version");
    assertEquals(unknown.code, 2);
  });
}
