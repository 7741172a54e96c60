import { assertEquals, assertRejects } from "@std/assert";
import { RecordingCommands, run, whyNoStandIn } from "../../tests/nvme/stand_in.ts";
import { FailedPrecondition, InvalidArgument, Unreachable } from "../runtime/errors.ts";
import { Filesystems, filesystemType } from "./filesystem.ts";

// All of these tools work on image files as on devices: nothing here needs root.
const ignore = Deno.build.os !== "linux" || !await installed("mkfs.xfs");
const MiB = 2 ** 20;
const size = 320 * MiB; // The least that mkfs.xfs takes is 300.
const PATH = `${Deno.env.get("PATH")}:/usr/sbin:/sbin`;

async function installed(program: string): Promise<boolean> {
  return await new RecordingCommands({ PATH: `${Deno.env.get("PATH")}:/usr/sbin:/sbin` })
    .run(program, ["-V"], { deadline: 10_000 }).then(() => true, () => false);
}

class Image implements AsyncDisposable {
  readonly size = size;
  readonly commands = new RecordingCommands({ PATH });
  readonly filesystems = new Filesystems({
    commands: this.commands,
    deadlines: { mkfs: 60_000, check: 60_000, command: 10_000 },
  });
  private constructor(readonly path: string) {}

  static async make(): Promise<Image> {
    const path = await Deno.makeTempFile();
    await Deno.truncate(path, size);
    return new Image(path);
  }

  async write(offset: number, bytes: number[]): Promise<void> {
    using file = await Deno.open(this.path, { write: true });
    await file.seek(offset, Deno.SeekMode.Start);
    await file.write(new Uint8Array(bytes));
  }

  /** Leaves it as a machine does that loses power: with a journal that is to be replayed. */
  async crashed(): Promise<void> {
    const folder = await Deno.makeTempDir();
    await run("mount", "-o", "loop", this.path, folder);
    for (let i = 0; i < 20; i++) await Deno.mkdir(`${folder}/${i}`);
    await run("sync", "-f", folder);
    await run("cp", "--sparse=always", this.path, `${this.path}.crashed`);
    await run("umount", folder);
    await Deno.remove(folder);
    await Deno.rename(`${this.path}.crashed`, this.path);
  }

  /** Changes an ext filesystem behind its back. */
  async debugfs(request: string): Promise<void> {
    await this.commands.run("debugfs", ["-w", "-R", request, this.path], { deadline: 10_000 });
  }

  content() {
    return this.filesystems.content(this);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Deno.remove(this.path);
  }
}

Deno.test({
  name: "Filesystems.content() calls empty only what holds nothing",
  ignore,
  async fn() {
    await using image = await Image.make();
    assertEquals(await image.content(), { kind: "empty" });
    await image.write(4096, [1]);
    assertEquals((await image.content()).kind, "data");
  },
});

Deno.test({
  name: "Filesystems.content() looks at the last MiB too",
  ignore,
  async fn() {
    await using image = await Image.make();
    await image.write(size - 1, [1]);
    assertEquals((await image.content()).kind, "data");
  },
});

Deno.test({
  name: "Filesystems.content() does not call empty what has lost its beginning, nor what has data in its middle",
  ignore,
  async fn() {
    for (const args of [["mkfs.ext4", "-q"], ["mkfs.ext4", "-q", "-b", "1024"], ["mkfs.xfs", "-q"]]) {
      await using image = await Image.make();
      const [program = "", ...options] = args;
      await image.commands.run(program, [...options, image.path], { deadline: 20_000 });
      await image.write(0, Array(MiB).fill(0));
      await image.write(size - MiB, Array(MiB).fill(0));
      assertEquals((await image.content()).kind, "data", args.join(" "));
      assertEquals(await image.filesystems.hasSecondSuperblock(image), true, args.join(" "));
    }
    // Each place by itself: the backups of ext4 with blocks of 4, 2 and 1 KiB, and a group of xfs that is no quarter.
    const places: [offset: number, bytes: number][] = [
      [128 * MiB, size],
      [32 * MiB, size],
      [8193 * 1024, size],
      [2 ** 40 - 4096, 4.5 * 2 ** 40],
    ];
    for (const [offset, bytes] of places) {
      await using image = await Image.make();
      await Deno.truncate(image.path, bytes);
      await image.write(offset, [1]);
      const where = `the MiB at byte ${offset}`;
      assertEquals(await image.filesystems.content({ path: image.path, size: bytes }), { kind: "data", where });
    }
    await using image = await Image.make();
    await image.write(5 * size / 8, [1]);
    assertEquals(await image.content(), { kind: "data", where: `the MiB at byte ${5 * size / 8}` });
    assertEquals(await image.filesystems.hasSecondSuperblock(image), false);
  },
});

Deno.test({
  name: "Filesystems.content() finds the second superblock of xfs where mkfs.xfs puts it, whatever the size",
  ignore,
  async fn() {
    for (const bytes of [301 * MiB, 333 * MiB + 4096, 5 * 1024 * MiB + 3 * 4096, 4.5 * 2 ** 40]) {
      await using image = await Image.make();
      await Deno.truncate(image.path, bytes);
      await image.commands.run("mkfs.xfs", ["-q", image.path], { deadline: 60_000 });
      await image.write(0, Array(MiB).fill(0));
      assertEquals(await image.filesystems.hasSecondSuperblock({ path: image.path, size: bytes }), true, `${bytes}`);
    }
  },
});

Deno.test({
  name: "Filesystems.content() names filesystems, and does not take swap, partitions or RAID for one",
  ignore,
  async fn() {
    const makers: [string[], string, string][] = [
      [["mkfs.ext4", "-q"], "filesystem", "ext4"],
      [["mkfs.xfs", "-q"], "filesystem", "xfs"],
      [["mkswap"], "other", "swap"],
    ];
    for (const [[program = "", ...args], kind, type] of makers) {
      await using image = await Image.make();
      await image.commands.run(program, [...args, image.path], { deadline: 20_000 });
      assertEquals(await image.content(), { kind, type } as unknown);
    }
    await using partitioned = await Image.make();
    // A DOS partition table with one partition of type 0x83, 2048 sectors from sector 2048.
    await partitioned.write(446, [0, 0, 0, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 8, 0, 0]);
    await partitioned.write(510, [0x55, 0xaa]);
    assertEquals(await partitioned.content(), { kind: "other", type: "dos table" });
  },
});

Deno.test({
  name: "Filesystems.content() takes no failing tool for an empty device",
  ignore,
  async fn() {
    await using image = await Image.make();
    const absent = { path: `${image.path}-absent`, size };
    await assertRejects(() => image.filesystems.content(absent), Unreachable); // blkid says 2 for it, as for an empty one.
    for (const [program, code] of [["blkid", 4], ["blkid", 8], ["wipefs", 1], ["cmp", 2]] as const) {
      image.commands.instead = (asked) =>
        asked === program ? { code, stdout: "", stderr: "input/output error" } : undefined;
      await assertRejects(() => image.content(), Unreachable, "Nothing is concluded");
    }
  },
});

Deno.test({
  name: "Filesystems.make() makes each type thin, and again over itself when forced",
  ignore,
  async fn() {
    for (const type of ["ext4", "ext3", "xfs"] as const) {
      await using image = await Image.make();
      await image.filesystems.make(type, image, { force: false });
      assertEquals(await image.content(), { kind: "filesystem", type });
      const written = ((await Deno.stat(image.path)).blocks ?? 0) * 512;
      assertEquals(written < 80 * MiB, true, `${type} wrote ${written} bytes`);
      if (type === "xfs") await assertRejects(() => image.filesystems.make(type, image, { force: false }), Unreachable);
      await image.filesystems.make(type, image, { force: true });
    }
  },
});

Deno.test({
  name: "Filesystems.make() keeps the file behind a large disk thin",
  ignore,
  async fn() {
    for (const [type, most] of [["ext4", 100 * MiB], ["xfs", 600 * MiB]] as const) {
      await using image = await Image.make();
      await Deno.truncate(image.path, 2 ** 40);
      await image.filesystems.make(type, { path: image.path, size: 2 ** 40 }, { force: false });
      const written = ((await Deno.stat(image.path)).blocks ?? 0) * 512;
      assertEquals(written < most, true, `${type} wrote ${written} bytes`);
    }
  },
});

Deno.test({
  name: "Filesystems.make() gives the words of a mkfs that fails",
  ignore,
  async fn() {
    await using image = await Image.make();
    image.commands.instead = () => ({ code: 1, stdout: "", stderr: "mkfs.xfs: No space left\n" });
    const making = () => image.filesystems.make("xfs", image, { force: false });
    await assertRejects(making, Unreachable, "ended with 1 and said: mkfs.xfs: No space left. What it began");
  },
});

Deno.test({
  name: "Filesystems.check() calls nothing damaged when e2fsck itself could not work or was killed",
  ignore,
  async fn() {
    await using image = await Image.make();
    for (const code of [8, 16, 32, 128, 137, 143]) {
      image.commands.instead = () => ({ code, stdout: "", stderr: "Device or resource busy" });
      await assertRejects(() => image.filesystems.check("ext4", image), Unreachable, "Nothing is concluded");
    }
  },
});

Deno.test({
  name: "Filesystems.xfsUnfinished() tells a mkfs.xfs that was cut off",
  ignore,
  async fn() {
    await using image = await Image.make();
    await image.filesystems.make("xfs", image, { force: false });
    assertEquals(await image.filesystems.xfsUnfinished(image), false);
    await image.write(126, [1]);
    assertEquals(await image.filesystems.xfsUnfinished(image), true);
  },
});

Deno.test({
  name: "Filesystems.check() passes a clean filesystem and one whose journal must be replayed",
  ignore,
  async fn() {
    await using image = await Image.make();
    await image.filesystems.make("ext4", image, { force: false });
    await image.filesystems.check("ext4", image);
    await image.debugfs("feature needs_recovery");
    await image.debugfs("set_super_value state 2"); // The kernel noted an error, and the journal may mend it.
    await image.filesystems.check("ext4", image);
  },
});

Deno.test({
  name: "Filesystems.check() refuses a damaged filesystem, says what was found and writes nothing",
  ignore,
  async fn() {
    await using image = await Image.make();
    await image.filesystems.make("ext4", image, { force: false });
    await image.debugfs("clri <2>"); // The root folder is gone.
    await image.debugfs("set_super_value state 2");
    const before = await run("sha256sum", image.path);
    await assertRejects(() => image.filesystems.check("ext4", image), FailedPrecondition, "oot inode");
    await assertRejects(() => image.filesystems.check("ext4", image), FailedPrecondition, "e2fsck -f");
    assertEquals(await run("sha256sum", image.path), before);
  },
});

Deno.test({
  name: "Filesystems.check() judges a filesystem that has errors by its own word only when its journal was replayed",
  ignore: ignore || await whyNoStandIn() !== undefined,
  async fn() {
    for (const damaged of [false, true]) {
      await using image = await Image.make();
      await image.filesystems.make("ext4", image, { force: false });
      await image.debugfs("set_super_value state 2");
      if (damaged) await image.debugfs("set_inode_field <11> links_count 9"); // lost+found
      await image.crashed();
      const check = () => image.filesystems.check("ext4", image);
      if (damaged) await assertRejects(check, FailedPrecondition, "its journal was replayed");
      else await check();
      assertEquals(image.commands.started.some((line) => line.includes("journal_only")), damaged);
    }
  },
});

Deno.test({
  name: "Filesystems.check() leaves xfs to the mount, and goes on where e2fsck is not installed",
  ignore,
  async fn() {
    await using image = await Image.make();
    await image.filesystems.check("xfs", image);
    assertEquals(image.commands.started, []);
    const nothing = new RecordingCommands({ PATH: "/nonexistent" });
    const deadlines = { mkfs: 1000, check: 1000, command: 1000 };
    await new Filesystems({ commands: nothing, deadlines }).check("ext4", image);
    assertEquals(nothing.started.length, 1);
  },
});

Deno.test("filesystemType() refuses what the driver does not make", () => {
  assertEquals(filesystemType("ext3"), "ext3");
  for (const name of ["", "btrfs", "EXT4", "ext4 -F"]) {
    try {
      filesystemType(name);
    } catch (error) {
      assertEquals(error instanceof InvalidArgument, true);
      continue;
    }
    throw new Error(`'${name}' was taken`);
  }
});
