import { assertEquals, assertThrows } from "@std/assert";
import { RecordingCommands, run, standIn, whyNoStandIn } from "../../tests/nvme/stand_in.ts";
import { InvalidArgument } from "../runtime/errors.ts";
import { Mounts } from "./mount.ts";
import { MountTable } from "./mountinfo.ts";
import { checkedMountOptions } from "./options.ts";

Deno.test("checkedMountOptions() allows what users need, however it is written", () => {
  assertEquals(checkedMountOptions(["noatime,discard", "nouuid", "ro", "errors=remount-ro", "data=ordered", ""]), [
    "noatime",
    "discard",
    "nouuid",
    "ro",
    "errors=remount-ro",
    "data=ordered",
  ]);
  assertEquals(checkedMountOptions(['context="system_u:object_r:container_file_t:s0:c1,c2",noexec']), [
    'context="system_u:object_r:container_file_t:s0:c1,c2"',
    "noexec",
  ]);
});

Deno.test("checkedMountOptions() refuses what would make it another mount, each with its reason", () => {
  const bad: [string, string][] = [
    ["bind", "something other"],
    ["noatime,remount", "something other"],
    ["loop=/dev/loop7", "knows nothing of"],
    ["logdev=/dev/sda", "knows nothing of"],
    ["journal_path=/x", "knows nothing of"],
    ["rshared", "propagation"],
    ["X-mount.mkdir=0777", "something other"],
    ["x-systemd.automount", "something other"],
    ["errors=panic", "whole node"],
    ["barrier=0", "lost"],
    ["nobarrier", "lost"],
    ["norecovery", "journal"],
    ["noload", "journal"],
    ["verity.hashdevice=/dev/sda", "knows nothing of"],
    ["noatime ro", "blank"],
    ["noatime\nro", "blank"],
  ];
  for (const [option, why] of bad) assertThrows(() => checkedMountOptions([option]), InvalidArgument, why);
});

const common = [
  "noatime",
  "nodiratime",
  "relatime",
  "lazytime",
  "discard",
  "nodiscard",
  "noexec",
  "nosuid",
  "nodev",
  "sync",
];
const usual = {
  ext4: [...common, "data=ordered", "commit=30", "errors=remount-ro", "stripe=16", "nodelalloc", "barrier=1"],
  xfs: [...common, "nouuid", "inode64", "logbufs=8", "logbsize=256k", "allocsize=1m", "largeio", "swalloc"],
};
Deno.test({
  name: "checkedMountOptions() allows what administrators use, and the kernel takes each of it",
  ignore: await whyNoStandIn() !== undefined,
  async fn() {
    await using machine = await standIn();
    const table = new MountTable({ procRoot: machine.roots.proc, limit: 10_000 });
    const mounts = new Mounts({ commands: new RecordingCommands(), table, deadline: 20_000 });
    const target = `${machine.folder}/target`;
    await Deno.mkdir(target);
    for (const [fsType, options] of Object.entries(usual)) {
      const file = `${machine.folder}/${fsType}.img`;
      await run("truncate", "-s", "320M", file);
      await run(`mkfs.${fsType}`, "-q", file);
      const path = (await run("losetup", "--find", "--show", file)).trim();
      try {
        const majorMinor = (await Deno.readTextFile(`/sys/class/block/${path.slice(5)}/dev`)).trim();
        for (const option of options) {
          await mounts.mount({ path, majorMinor }, target, { fsType, mountOptions: checkedMountOptions([option]) });
          await mounts.unmount(target, (mount) => mount.majorMinor === majorMinor);
        }
      } finally {
        await run("losetup", "--detach", path);
      }
    }
  },
});
