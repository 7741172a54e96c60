import { assertEquals, assertRejects } from "@std/assert";
import { Stuck } from "./command.ts";
import { Busy } from "./errors.ts";
import { KeyedLock } from "./keyed_lock.ts";

Deno.test("KeyedLock.run() refuses the second of two on one key, and lets other keys be", async () => {
  const lock = new KeyedLock();
  const gate = Promise.withResolvers<void>();
  const first = lock.run("a", "stage", () => gate.promise);
  await assertRejects(() => lock.run("a", "unstage", () => Promise.resolve()), Busy, "stage of a is still under way");
  assertEquals(await lock.run("b", "stage", () => Promise.resolve(1)), 1);
  gate.resolve();
  await first;
  assertEquals(await lock.run("a", "unstage", () => Promise.resolve(2)), 2);
});

Deno.test("KeyedLock.run() lets go after a failure", async () => {
  const lock = new KeyedLock();
  await assertRejects(() => lock.run("a", "stage", () => Promise.reject(new Error("no"))), Error, "no");
  assertEquals(await lock.run("a", "stage", () => Promise.resolve(1)), 1);
});

Deno.test("KeyedLock.run() keeps the key, whoever held it, while a program that the work left behind hangs in the kernel", async () => {
  const lock = new KeyedLock();
  const ended = Promise.withResolvers<void>();
  const left = () => lock.run("a", "recovery", () => Promise.reject(new Stuck("it hangs", ended.promise)));
  await assertRejects(left, Stuck, "it hangs");
  await assertRejects(() => lock.run("a", "stage", () => Promise.resolve()), Busy, "hangs in the kernel (recovery)");
  ended.resolve();
  await new Promise((resolve) => setTimeout(resolve, 0));
  assertEquals(await lock.run("a", "stage", () => Promise.resolve(1)), 1);
});
