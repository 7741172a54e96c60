import { assertEquals } from "@std/assert";
import type { Export } from "./exporter.ts";
import { connected } from "./nvmet_connects.ts";
import { NvmetExporter } from "./nvmet_exporter.ts";

/**
 * A folder with the shape of configfs' `nvmet`: making a folder in the real one brings its files and folders along, so
 * they are there before. What `losetup` and `ln` are asked for is written down; `ln` makes a file.
 */
class FakeNvmet implements AsyncDisposable {
  readonly ran: string[] = [];
  loops: { name: string; "back-file": string }[] = [];

  private constructor(readonly folder: string) {}

  static async make(): Promise<FakeNvmet> {
    const fake = new FakeNvmet(await Deno.makeTempDir({ prefix: "rds-csi-" }));
    for (const name of ["subsystems", "ports"]) await Deno.mkdir(`${fake.folder}/${name}`);
    return fake;
  }

  /** As if somebody had made it before. */
  async subsystem(nqn: string, devicePath: string): Promise<void> {
    await Deno.mkdir(`${this.folder}/subsystems/${nqn}/namespaces/1`, { recursive: true });
    await Deno.writeTextFile(`${this.folder}/subsystems/${nqn}/namespaces/1/device_path`, `${devicePath}\n`);
  }

  exporter(): NvmetExporter {
    return new NvmetExporter({
      root: this.folder,
      host: "0.0.0.0",
      poolFolder: "/pool",
      run: (program, args) => this.#run(program, args),
    });
  }

  #run(program: string, args: readonly string[]): string {
    if (args[0] === "--list") return JSON.stringify({ loopdevices: this.loops });
    this.ran.push(`${program} ${args.join(" ")}`);
    return args[0] === "--find" ? "/dev/loop7\n" : "";
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Deno.remove(this.folder, { recursive: true });
  }
}

const shown: Export = {
  nqn: "nqn.2000-02.com.mikrotik:pvc-1",
  port: 4420,
  file: "/pool/a.img",
  size: 1024,
  connectedSize: 1024,
  generationTime: 0,
};

Deno.test("NvmetExporter.show() leaves a subsystem alone that another program has made under the NQN", async () => {
  await using nvmet = await FakeNvmet.make();
  await nvmet.subsystem(shown.nqn, "/dev/vdb");
  const exporter = nvmet.exporter();
  exporter.show(shown);
  exporter.hide(shown.nqn);
  assertEquals(nvmet.ran, []);
  assertEquals(
    await Deno.readTextFile(`${nvmet.folder}/subsystems/${shown.nqn}/namespaces/1/device_path`),
    "/dev/vdb\n",
  );
});

Deno.test("NvmetExporter detaches at its start what lies over files of the pool, and nothing else", async () => {
  await using nvmet = await FakeNvmet.make();
  nvmet.loops = [
    { name: "/dev/loop1", "back-file": "/pool/old.img" },
    { name: "/dev/loop2", "back-file": "/pool2/other.img" },
    { name: "/dev/loop3", "back-file": "/pool/gone.img (deleted)" },
  ];
  await nvmet.subsystem("nqn.other", "/dev/loop2");
  nvmet.exporter();
  assertEquals(nvmet.ran, ["losetup --detach /dev/loop1", "losetup --detach /dev/loop3"]);
  assertEquals([...Deno.readDirSync(`${nvmet.folder}/subsystems`)].map(({ name }) => name), ["nqn.other"]);
});

Deno.test("connected() knows a host's connection in the kernel's log, and nothing else", () => {
  const line = "nvmet: creating nvm controller 1 for subsystem nqn.x:pvc-1 for NQN nqn.2014-08.org.nvmexpress:uuid:1.";
  assertEquals(connected(line), "nqn.x:pvc-1");
  assertEquals(connected("nvmet: adding nsid 1 to subsystem nqn.x:pvc-1"), undefined);
  assertEquals(connected(line.replace("nvm controller", "discovery controller")), undefined);
});
