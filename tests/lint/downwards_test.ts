import { assertEquals, assertStringIncludes } from "@std/assert";
import plugin, { whyNot } from "./downwards.ts";

/** What the rule says of a file of the project with this text. */
function found(path: string, text: string): string[] {
  return Deno.lint.runPlugin(plugin, `/anywhere/${path}`, text).map(({ message }) => message);
}

Deno.test("house/downwards catches an import that points up, whichever its form", () => {
  for (
    const text of [
      'import { serve } from "../csi/server.ts";',
      'import type { Handlers } from "../csi/server.ts";',
      'export { serve } from "../csi/server.ts";',
      'export * from "../csi/server.ts";',
      'const { serve } = await import("../csi/server.ts");',
    ]
  ) {
    const [message = "", ...others] = found("src/rds/disks.ts", text);
    assertStringIncludes(
      message,
      "src/rds/disks.ts must not import src/csi/server.ts: imports point downwards only",
      text,
    );
    assertEquals(others, []);
  }
});

Deno.test("house/downwards lets imports that point down, stay in the room or leave the house be", () => {
  const text = `
    import { Disks } from "../rds/disks.ts";
    import { size } from "./size.ts";
    import { Client } from "ssh2";
    import { file_csi } from "../../proto/gen/csi_pb.ts";
  `;
  assertEquals(found("src/volumes/volumes.ts", text), []);
});

Deno.test("house/remove-one catches recursive removals in the driver, and lets tests be", () => {
  const text = "await Deno.remove(path, { recursive: true }); Deno.removeSync(path, options); await Deno.remove(path);";
  assertEquals(found("src/staging/unstage.ts", text).length, 2);
  assertEquals(found("src/staging/unstage_test.ts", text), []);
  assertEquals(found("tests/lab/folder.ts", text), []);
});

Deno.test("whyNot() knows the floors", () => {
  const table: [importer: string, imported: string, allowed: boolean][] = [
    ["src/controller.ts", "src/csi/server.ts", true],
    ["src/controller.ts", "src/config_read.ts", true],
    ["src/csi/server.ts", "src/controller.ts", false],
    ["src/runtime/log.ts", "src/config.ts", false],
    ["src/volumes/volumes.ts", "src/attachments/decide.ts", false],
    ["src/rds/disks.ts", "src/nvme/session.ts", false],
    ["src/volumes/id.ts", "src/nvme/nqn.ts", true],
    ["src/rds/disks.ts", "src/nvme/nqn.ts", true],
    ["src/simulator/store.ts", "src/runtime/errors.ts", true],
    ["src/simulator/store.ts", "src/rds/decode.ts", false],
    ["src/rds/disks.ts", "src/simulator/store.ts", false],
    ["src/csi/server.ts", "src/simulator/store.ts", false],
    ["src/controller.ts", "src/simulator/simulator.ts", false],
    ["src/simulate.ts", "src/simulator/simulator.ts", true],
    ["src/csi/server.ts", "tests/nvme/stand_in.ts", false],
    ["src/rds/connection_test.ts", "src/simulator/simulator.ts", true],
    ["tests/nvme/node.ts", "src/staging/stage.ts", true],
  ];
  for (const [importer, imported, allowed] of table) {
    assertEquals(whyNot(importer, imported) === undefined, allowed, `${importer} -> ${imported}`);
  }
});
