import { assert, assertEquals, assertMatch } from "@std/assert";
import manifest from "../../deno.json" with { type: "json" };
import { project } from "../lab/project.ts";
import { buildah, image } from "../lab/image.ts";

/** The programs of the list, with the argument that each is seen to start by. */
const programs = (await Deno.readTextFile(new URL("deploy/image/programs", project))).split("\n")
  .filter((line) => line !== "" && !line.startsWith("#"))
  .map((line) => line.split(/\s+/) as [name: string, from: string, argument: string]);

Deno.test("the image's list of programs has every program that the permissions name, and env", () => {
  assertEquals(new Set(programs.map(([name]) => name)), new Set([...manifest.permissions.program.run, "env"]));
});

Deno.test("every program that the code runs is in the image and starts there", async (test) => {
  await image();
  const container = (await buildah(["from", "--pull-never", "localhost/rds-csi:bundled"])).text.trim();
  const run = (...command: string[]) =>
    buildah(["run", "--isolation=chroot", container, "--", ...command], { anyCode: true });
  try {
    await test.step("the programs of the list", async () => {
      for (const [name, , argument] of programs) {
        const { code, text } = await run(name, ...argument === "-" ? [] : [argument]);
        // What knows no such argument says how it is used.
        assert(code === 0 || argument === "-" && text.includes("Usage"), `${name}: ${code}: ${text}`);
        assertMatch(text, /\d+\.\d+|version \d+|\b\d\d\b/, name);
      }
    });
    await test.step("the program itself, from its own permissions", async () => {
      assertEquals((await run("rds-csi", "--version")).text, `rds-csi ${manifest.version}\n`);
      assertMatch((await run("rds-csi", "--mode=node")).text, /--managed-nqn-prefix/);
    });
    await test.step("no shell and no package manager", async () => {
      for (const name of ["sh", "bash", "dash", "apt-get", "dpkg", "perl"]) {
        assertMatch((await run(name, "--version")).text, /not found|no such file/i, name);
      }
    });
    await test.step("a bill of materials", async () => {
      const root = (await buildah(["mount", container])).text.trim();
      const bill = JSON.parse(await Deno.readTextFile(`${root}/usr/share/rds-csi/sbom.spdx.json`));
      const names = bill.packages.map(({ name }: { name: string }) => name);
      for (const name of ["rds-csi", "deno", "nvme-cli", "libc6", "@grpc/grpc-js", "ssh2"]) {
        assert(names.includes(name), `${name} is not in the bill of materials`);
      }
      assertEquals(new Set(bill.packages.map(({ SPDXID }: { SPDXID: string }) => SPDXID)).size, names.length);
    });
    await test.step("which of the two programs it is", async () => {
      const { text } = await buildah(["inspect", "--format={{.OCIv1.Config.Labels}}", container]);
      assertMatch(text, /io\.rds-csi\.program:bundled/);
    });
  } finally {
    await buildah(["rm", container]);
  }
});
