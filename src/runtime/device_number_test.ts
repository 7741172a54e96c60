import { assertEquals } from "@std/assert";
import { majorMinorOf } from "./device_number.ts";

Deno.test("majorMinorOf() reads small and large minors as the kernel writes them", () => {
  assertEquals(majorMinorOf(0x0103), "1:3");
  assertEquals(majorMinorOf((259 << 8) | 7), "259:7");
  // 259:1000000: the minor's low byte is 0x40, its upper twelve bits 0xf42 stand from bit 20.
  assertEquals(majorMinorOf(0xf42 * 2 ** 20 + 259 * 256 + 0x40), "259:1000000");
});
