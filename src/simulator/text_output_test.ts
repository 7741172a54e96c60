import { assert, assertEquals } from "@std/assert";
import { roundedSize } from "./disk_properties.ts";
import { Simulator } from "./simulator.ts";

async function shown(line: string, textWidth = 230): Promise<string> {
  const folder = await Deno.makeTempDir();
  const simulator = new Simulator({ poolFolder: folder, mountPoint: "raid10", poolSize: 16 * 1024 ** 4, textWidth });
  try {
    await simulator.run(
      "/disk add type=file file-path=/raid10/vm-storage-001.img file-size=1T slot=vm-storage-001 mount-filesystem=no " +
        "nvme-tcp-export=yes nvme-tcp-server-port=4420 nvme-tcp-server-nqn=nqn.2026-09.com.mikrotik:rds2216.vm-storage-001",
    );
    return await simulator.run(line);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

Deno.test("print detail looks as on a device: flags, groups of digits, rounded file-size, CRLF", async () => {
  assertEquals(
    await shown('/disk print detail where slot~"vm"'),
    'Flags: B - BLOCK-DEVICE; t - NVME-TCP-EXPORT\r\n 1 Bt type=file slot="vm-storage-001" slot-default="" parent="" fs=- ' +
      'model="/raid10/vm-storage-001.img" size=1 099 511 627 776 mount-filesystem=no mount-read-only=no compress=no ' +
      "sector-size=512 raid-master=none nvme-tcp-export=yes\r\n" +
      '       nvme-tcp-server-port=4420 nvme-tcp-server-nqn="nqn.2026-09.com.mikrotik:rds2216.vm-storage-001" ' +
      'nvme-tcp-server-allow-host-name="" iscsi-export=no nfs-sharing=no smb-sharing=no media-sharing=no media-interface=none ' +
      "swap=no \r\n      file-path=/raid10/vm-storage-001.img file-size=1024.0GiB file-offset=0\r\n",
  );
});

Deno.test("print detail has the flags' line also without rows, and wraps inside paths and numbers", async () => {
  assert(/^Flags: X - DISABLED.*\r\n$/.test(await shown("/disk print detail where slot=nobody")));
  const narrow = await shown("/disk print detail where mount-point=raid10", 40);
  for (const line of narrow.split("\r\n").slice(1)) assert(line.length <= 40, line);
  const joined = narrow.split("\r\n").slice(1).map((line, at) => at === 0 ? line : line.slice(6)).join("");
  assert(joined.includes("size=17 592 186 044 416 free=17 592 18"), joined);
});

Deno.test("print detail of files, and monitor-traffic, have forms of their own", async () => {
  const files = await shown('/file print detail where name~"vm"');
  assert(/^ 0 name="raid10\/vm-storage-001.img" type=".img file" size=1024.0GiB last-modified=/.test(files), files);
  const traffic = await shown("/disk monitor-traffic vm-storage-001 once");
  assert(/^ +slot: vm-storage-001\r\n(.*\r\n)* +read-rate: 0bps\r\n/.test(traffic), traffic);
});

Deno.test("roundedSize() keeps one decimal and changes the unit late", () => {
  assertEquals([0, 512, 1536, 1024 ** 3, 1024 ** 3 + 1, 50 * 1024 ** 3].map(roundedSize), [
    "0",
    "512",
    "1.5KiB",
    "1024.0MiB",
    "1.0GiB",
    "50.0GiB",
  ]);
});
