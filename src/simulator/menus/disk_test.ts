import { assertEquals, assertMatch } from "@std/assert";
import type { Guesses, SimulatorOptions } from "../options.ts";
import { Simulator } from "../simulator.ts";

const MiB = 1024 ** 2;

interface Try {
  say: (line: string) => Promise<string>;
  folder: string;
}

async function withPool(work: (it: Try) => Promise<void>, options: Partial<SimulatorOptions> = {}): Promise<void> {
  const folder = await Deno.makeTempDir();
  const simulator = new Simulator({ poolFolder: folder, mountPoint: "pool", poolSize: 64 * MiB, ...options });
  try {
    await work({ say: async (line) => (await simulator.run(line)).replace(/\r\n$/, ""), folder });
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

function add(slot: string, more = `file-size=${MiB}`, path = `/pool/${slot}.img`): string {
  return `/disk/add type=file slot=${slot} file-path="${path}" ${more}`;
}

const size = (slot: string) => `:put [/disk/get [find slot=${slot}] size]`.replace("[find", "[/disk/find");

Deno.test("/disk/add makes a sparse file, shrinks and grows it, and the row's end leaves the file", async () => {
  await withPool(async ({ say, folder }) => {
    assertMatch(await say(`:put [${add("a", "file-size=2M", "/pool/base/a.img")}]`), /^\*[0-9A-F]+$/);
    const { size: bytes, blocks } = await Deno.stat(`${folder}/base/a.img`);
    assertEquals([bytes, blocks], [2 * MiB, 0]);
    await say("/disk/set [find slot=a] file-size=5M");
    assertEquals([await say(size("a")), (await Deno.stat(`${folder}/base/a.img`)).size], [String(5 * MiB), 5 * MiB]);
    await say("/disk/set [find slot=a] file-size=1M");
    assertEquals((await Deno.stat(`${folder}/base/a.img`)).size, MiB, "a smaller size cuts data off, as on a device");
    assertEquals(await say('/file/remove [find name="pool/base/a.img"]'), "failure: file in use");
    assertEquals(await say('/disk/remove [find slot=a]; :put [:len [/file/find where name="pool/base/a.img"]]'), "1");
    assertEquals(
      await say('/file/remove [find name="pool/base/a.img"]; :put [:len [/file/find where name~"a.img"]]'),
      "0",
    );
  });
});

Deno.test("/disk/add attaches an existing file as it is without a size, and refuses one with a size", async () => {
  await withPool(async ({ say, folder }) => {
    await Deno.writeTextFile(`${folder}/old.img`, "data");
    assertEquals(await say(add("old")), "failure: file already exists");
    assertEquals(await say(`${add("old", "")}; ${size("old")}`), "4");
    assertEquals(await Deno.readTextFile(`${folder}/old.img`), "data");
    assertEquals(await say(add("none", "")), "failure: no such file");
  });
  await withPool(async ({ say, folder }) => {
    await Deno.writeTextFile(`${folder}/old.img`, "data");
    assertEquals(await say(add("old")), "");
  }, { guesses: { sizeOnExistingFile: true } });
});

const doubles: [guess: keyof Guesses, line: string, text: string][] = [
  ["uniqueSlots", add("a", "file-size=1M", "/pool/other.img"), "failure: already have such slot"],
  ["uniqueFiles", add("b", "", "/pool/a.img"), "failure: already have such file-path"],
  [
    "uniqueNqns",
    add("b", "file-size=1M nvme-tcp-server-nqn=nqn.x:a"),
    "failure: already have such nvme-tcp-server-nqn",
  ],
  ["longestSlot", add("s".repeat(33)), "invalid value for argument slot"],
];

Deno.test("/disk/add refuses doubles and long slots, each by a setting", async () => {
  for (const [guess, line, text] of doubles) {
    for (const guesses of [{}, { [guess]: guess === "longestSlot" ? 40 : false }]) {
      await withPool(async ({ say }) => {
        await say(add("a", "file-size=1M nvme-tcp-server-nqn=nqn.x:a"));
        assertEquals(
          await say(line),
          Object.keys(guesses).length === 0 ? text : "",
          `${guess} ${JSON.stringify(guesses)}`,
        );
      }, { guesses });
    }
  }
});

const refused: [line: string, text: string][] = [
  [add("a", "file-size=65M"), "failure: not enough space"],
  [add("a", "file-size=0"), "invalid value for argument file-size"],
  [add("a", "file-size=1.5G"), "invalid value for argument file-size"],
  [add("a", "file-size=1M nvme-tcp-export=maybe"), "invalid value for argument nvme-tcp-export"],
  [add("a", "file-size=1M nvme-tcp-server-port=70000"), "invalid value for argument nvme-tcp-server-port"],
  [add("a", "file-size=1M nvme-tcp-server-nqn=iqn.x"), "invalid value for argument nvme-tcp-server-nqn"],
  ["/disk/add type=btrfs slot=a", "input does not match any value of type"],
  ["/disk/add type=file slot=a", "missing value(s) of argument(s) file-path"],
  [add("a", "file-size=1M", "/pool/../a.img"), "failure: no such directory"],
  [add("a", "file-size=1M", "/pool/link/a.img"), "failure: no such directory"],
  [add("a", "file-size=1M", "/pool/.simulator/a.img"), "failure: no such directory"],
  [add("a", "file-size=1M", "/etc/a.img"), "failure: no such directory"],
  [add("a", "file-size=1M", "/pool"), "failure: no such directory"],
  [add("a", "file-size=1M", `/pool/${"a".repeat(300)}`), "failure: no such directory"],
  ["/disk/remove [find slot=raid1]", "failure: could not unmount, stop using it first"],
  ["/disk/set [find slot=raid1] file-size=1M", "invalid value for argument file-size"],
];

Deno.test("/disk refuses what RouterOS would, never leaves the pool's folder, and nothing has changed then", async () => {
  await withPool(async ({ say, folder }) => {
    const elsewhere = await Deno.makeTempDir();
    await Deno.symlink(elsewhere, `${folder}/link`);
    for (const [line, text] of refused) {
      assertEquals(await say(line), text, line);
      assertEquals(await say(":put [/disk/print count-only]; :put [:len [/file/find]]"), "1\r\n0", line);
    }
    assertEquals(await say('/file/remove [find name="pool/link"]; :put [:len [/file/find]]'), "0");
    assertEquals([...Deno.readDirSync(elsewhere)], []);
    await Deno.remove(elsewhere);
  });
});

Deno.test("the pool's free space is what was not written, or with preallocation what was not promised", async () => {
  for (const preallocated of [false, true]) {
    await withPool(async ({ say, folder }) => {
      await say(add("a", "file-size=40M"));
      await Deno.writeFile(`${folder}/written`, new Uint8Array(MiB).fill(1));
      const free = Number(await say(":put [/disk/get [/disk/find where mount-point=pool] free]"));
      const expected = (preallocated ? 23 : 63) * MiB;
      assertEquals(Math.abs(free - expected) < 64 * 1024, true, `${free} is not about ${expected}`);
      await say("/disk/set [find slot=a] file-size=60M");
      assertEquals(await say(size("a")), String(60 * MiB), "what the file has already counts for it");
      assertEquals(await say(add("b", "file-size=40M")), preallocated ? "failure: not enough space" : "");
    }, { guesses: { preallocated } });
  }
});

Deno.test("/disk/set refuses another NQN for an export that is on, by a setting; taken off first it takes it", async () => {
  for (const renamesExports of [false, true]) {
    await withPool(async ({ say }) => {
      await say(add("a", "file-size=1M nvme-tcp-export=yes nvme-tcp-server-nqn=nqn.x:a"));
      const rename = "/disk/set [find slot=a] nvme-tcp-server-nqn=nqn.x:b";
      assertEquals(await say(rename), renamesExports ? "" : "failure: can not do that");
      assertEquals(await say(":put [/disk/get a nvme-tcp-server-nqn]"), renamesExports ? "nqn.x:b" : "nqn.x:a");
      assertEquals(await say("/disk/set [find slot=a] nvme-tcp-server-nqn=nqn.x:a nvme-tcp-export=no"), "");
      assertEquals(await say(`${rename}; /disk/set [find slot=a] nvme-tcp-export=yes`), "");
      assertEquals(await say(":put [/disk/get a nvme-tcp-server-nqn]"), "nqn.x:b");
    }, { guesses: { renamesExports } });
  }
});

Deno.test("foreign rows are there from the start, once, and are as removable as any", async () => {
  const foreignDisks = [
    { type: "file", slot: "nixos-var", "file-path": "/pool/nixos-var.img", size: MiB },
    { type: "partition", slot: "usb1-part1", fs: "ext4", "mount-point": "usb1" },
  ];
  await withPool(async ({ say, folder }) => {
    assertEquals(await say(":put [:len [/disk/find where slot=nixos-var or mount-point=usb1]]"), "2");
    new Simulator({ poolFolder: folder, mountPoint: "pool", foreignDisks });
    assertEquals(await say("/disk/remove [find slot=nixos-var]; :put [/disk/print count-only]"), "2");
  }, { foreignDisks });
});

Deno.test("/disk/btrfs/subvolume makes snapshots whose files are copies, and refuses other file systems", async () => {
  await withPool(async ({ say, folder }) => {
    await say("/disk/btrfs/subvolume/add fs=pool name=v1");
    await Deno.writeTextFile(`${folder}/v1/volume.img`, "before");
    assertEquals(await say("/disk/btrfs/subvolume/add fs=pool parent=v1 name=s1 read-only=yes"), "");
    await Deno.writeTextFile(`${folder}/v1/volume.img`, "after");
    assertEquals(await Deno.readTextFile(`${folder}/s1/volume.img`), "before");
    assertEquals(await say("/disk/btrfs/subvolume/add fs=pool name=s1"), "failure: already have such name");
    assertEquals(await say(":put [/disk/btrfs/subvolume/print count-only where read-only=yes]"), "1");
    await say(add("c", "", "/pool/s1/volume.img"));
    assertEquals(await say('/disk/btrfs/subvolume/remove [find where name="s1"]'), "failure: in use");
    await say('/disk/remove [find slot=c]; /disk/btrfs/subvolume/remove [find where name="s1"]');
    assertEquals(await say(":put [:len [/disk/btrfs/subvolume/find]]"), "1");
  });
  await withPool(async ({ say }) => {
    assertEquals(await say("/disk/btrfs/subvolume/add fs=pool name=v1"), "input does not match any value of fs");
  }, { poolFs: "xfs" });
});
