import { assertEquals, assertRejects, assertThrows } from "@std/assert";
import fc from "fast-check";
import { poll } from "../runtime/deadline.ts";
import { FailedPrecondition, Unreachable } from "../runtime/errors.ts";
import {
  infoOf,
  type Mount,
  mountAround,
  mountAt,
  mountsOf,
  MountTable,
  parseMountinfo,
  refuseStorm,
  resolved,
} from "./mountinfo.ts";

/** As the kernel writes a path (fs/proc_namespace.c, mangle()): blank, tab, line feed, backslash and # in octal. */
function escaped(text: string): string {
  return text.replaceAll(/[ \t\n\\#]/g, (char) => `\\${char.charCodeAt(0).toString(8).padStart(3, "0")}`);
}

function line(mount: Partial<Mount> & { target: string }, propagation: readonly string[] = []): string {
  const { majorMinor = "259:1", root = "/", options = ["rw"], superOptions = ["rw"] } = mount;
  const { fsType = "ext4", source = "/dev/nvme0n1" } = mount;
  return [
    ...["36", "35", majorMinor, escaped(root), escaped(mount.target), options.join(","), ...propagation, "-"],
    ...[fsType, escaped(source), superOptions.join(",")],
  ].join(" ");
}

const paths = fc.string({ unit: fc.constantFrom(..."a/ \t\n\\#-é0134"), minLength: 1 }).map((text) => `/${text}`);
const mounts: fc.Arbitrary<Mount> = fc.record({
  majorMinor: fc.tuple(fc.nat(4095), fc.nat(1_048_575)).map((pair) => pair.join(":")),
  root: paths,
  target: paths,
  options: fc.constantFrom(["rw"], ["ro", "nosuid", "nodev"]),
  fsType: fc.constantFrom("ext4", "xfs", "fuse.x"),
  source: paths,
  superOptions: fc.constantFrom(["rw"], ["ro", "errors=continue"]),
}, { noNullPrototype: true });

Deno.test("parseMountinfo() reads back whatever paths the kernel escapes", () => {
  const propagations = fc.constantFrom([], ["shared:12"], ["shared:12", "master:3"]);
  fc.assert(fc.property(fc.array(fc.tuple(mounts, propagations)), (all) => {
    const text = all.map(([mount, propagation]) => `${line(mount, propagation)}\n`).join("");
    assertEquals(parseMountinfo(text), all.map(([mount]) => mount));
  }));
});

Deno.test("parseMountinfo() reads lines of a kernel", () => {
  const [bind] = parseMountinfo(
    "812 29 259:3 /data /var/lib/kubelet/pods/1/volumes/kubernetes.io~csi/my\\040pv/mount rw,noatime shared:407 master:2 - " +
      "ext4 /dev/nvme1n1 rw,stripe=16\n",
  );
  assertEquals(bind, {
    majorMinor: "259:3",
    root: "/data",
    target: "/var/lib/kubelet/pods/1/volumes/kubernetes.io~csi/my pv/mount",
    options: ["rw", "noatime"],
    fsType: "ext4",
    source: "/dev/nvme1n1",
    superOptions: ["rw", "stripe=16"],
  });
});

Deno.test("parseMountinfo() refuses a line that it does not understand instead of leaving a mount out", () => {
  for (
    const bad of [
      "36 35 259:1 / /x rw ext4 /dev/x rw",
      "36 35 nvme / /x rw - ext4 /dev/x rw",
      "garbage",
      "36 35 259:1 / /x rw -",
    ]
  ) {
    assertThrows(() => parseMountinfo(`${line({ target: "/" })}\n${bad}\n`), Unreachable, "cannot be read");
  }
});

Deno.test("mountAt() sees the last of several mounts over one another, mountsOf() all of a device", () => {
  const table = parseMountinfo(
    ["259:1", "259:2", "259:1"].map((majorMinor, i) => line({ majorMinor, target: i < 2 ? "/target" : "/other" })).join(
      "\n",
    ),
  );
  assertEquals(mountAt(table, "/target")?.majorMinor, "259:2");
  assertEquals(mountAt(table, "/targe"), undefined);
  assertEquals(mountsOf(table, "259:1").map((mount) => mount.target), ["/target", "/other"]);
});

Deno.test("mountAround() finds the mount that a path lies in by whole parts", () => {
  const table = parseMountinfo(
    ["/", "/var/lib", "/var/lib/kube", "/var/lib/kubelet"].map((target) => line({ target })).join("\n"),
  );
  assertEquals(mountAround(table, "/var/lib/kubelet/pods/x")?.target, "/var/lib/kubelet");
  assertEquals(mountAround(table, "/var/lib/kubelet2")?.target, "/var/lib");
  assertEquals(mountAround(table, "/etc")?.target, "/");
});

Deno.test("refuseStorm() lets a device have a hundred mounts and not one more, with counts and remedy", () => {
  const table = (count: number) =>
    parseMountinfo(Array.from({ length: count }, (_, i) => line({ target: `/t${i}` })).join("\n"));
  refuseStorm(table(99), "259:1");
  refuseStorm(table(500), "259:2");
  assertThrows(() => refuseStorm(table(100), "259:1"), FailedPrecondition, "has 100 mounts");
  assertThrows(() => refuseStorm(table(100), "259:1"), FailedPrecondition, "findmnt");
});

Deno.test("resolved() follows the folder, not the last part, and knows when nothing can be there", async () => {
  const folder = await Deno.realPath(await Deno.makeTempDir());
  await Deno.mkdir(`${folder}/real`);
  await Deno.symlink("real", `${folder}/link`);
  await Deno.symlink("nowhere", `${folder}/real/last`);
  assertEquals(await resolved(`${folder}/link/last/`), `${folder}/real/last`);
  assertEquals(await resolved(`${folder}/absent/last`), undefined);
  await Deno.writeTextFile(`${folder}/file`, "");
  assertEquals(await resolved(`${folder}/file/below/last`), undefined);
  assertEquals(await infoOf(`${folder}/file/below`), undefined);
  assertEquals(await resolved("/top"), "/top");
  await Deno.remove(folder, { recursive: true });
});

Deno.test("MountTable.read() gives up at its limit, and sends no second read after one that hangs", async () => {
  const procRoot = await Deno.makeTempDir();
  await Deno.mkdir(`${procRoot}/1`);
  const path = `${procRoot}/1/mountinfo`;
  await new Deno.Command("mkfifo", { args: [path] }).output(); // Opening it waits for a writer.
  const table = new MountTable({ procRoot, limit: 50 });
  await assertRejects(() => table.read(), Unreachable, "no answer within");
  await assertRejects(() => table.read(), Unreachable, "still hangs");
  await Deno.writeTextFile(path, "");
  await Deno.remove(path);
  await Deno.writeTextFile(path, `${line({ target: "/x" })}\n`);
  // Until the hanging read has ended.
  const mounts = await poll(() => table.read().catch(() => undefined), { signal: AbortSignal.timeout(10_000) });
  assertEquals(mounts.map((mount) => mount.target), ["/x"]);
  await Deno.remove(procRoot, { recursive: true });
});

Deno.test("MountTable.read() never reads a failure as an empty table", async () => {
  const table = new MountTable({ procRoot: "/nonexistent", limit: 1000 });
  await assertRejects(() => table.read(), Unreachable, "--proc-root");
});
