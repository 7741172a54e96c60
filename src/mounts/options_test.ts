import { assertEquals, assertThrows } from "@std/assert";
import { InvalidArgument } from "../runtime/errors.ts";
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
    ["noatime ro", "blank"],
    ["noatime\nro", "blank"],
  ];
  for (const [option, why] of bad) assertThrows(() => checkedMountOptions([option]), InvalidArgument, why);
});
