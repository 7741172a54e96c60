import { assertEquals } from "@std/assert";
import { Unreachable } from "../runtime/errors.ts";
import type { Pv } from "./objects.ts";
import { Resets } from "./resets.ts";

function pv(name: string, asksForReset: boolean): Pv {
  return {
    name,
    handle: name,
    mode: "single",
    claim: undefined,
    migrationTimeout: 300_000,
    asksForReset,
    owesFence: false,
  };
}

Deno.test("Resets takes the annotation off when its time is over, again and again, and counts anew when it comes back", async () => {
  let now = 0;
  let fails = false;
  let pvs = [pv("a", true), pv("b", false)];
  const forgotten: string[] = [];
  const forgetReset = (name: string) => {
    if (fails) return Promise.reject(new Unreachable("away"));
    forgotten.push(name);
    return Promise.resolve();
  };
  const resets = new Resets({ view: { pvs: () => pvs }, annotations: { forgetReset }, lifetime: 100, now: () => now });
  const { signal } = new AbortController();
  const lookAt = async (time: number) => {
    now = time;
    await resets.look(signal);
    return forgotten.splice(0);
  };
  assertEquals([await lookAt(0), await lookAt(99)], [[], []]);
  fails = true;
  assertEquals(await lookAt(100), []);
  fails = false;
  assertEquals(await lookAt(110), ["a"]);
  pvs = [pv("a", false), pv("b", false)];
  assertEquals(await lookAt(120), []);
  pvs = [pv("a", true)];
  assertEquals([await lookAt(130), await lookAt(229), await lookAt(230)], [[], [], ["a"]]);
});
