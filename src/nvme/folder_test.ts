import { assertEquals, assertRejects } from "@std/assert";
import { Deadline } from "../runtime/deadline.ts";
import { TimedOut } from "../runtime/errors.ts";
import { untilFolder } from "./folder.ts";

Deno.test("untilFolder() looks again when something comes into the folder", async () => {
  const folder = await Deno.makeTempDir();
  let looks = 0;
  const look = async () => {
    looks++;
    if (looks === 1) await Deno.writeTextFile(`${folder}/device`, ""); // It comes between a look and the wait after it.
    return looks > 1 ? "there" : undefined;
  };
  assertEquals(await untilFolder(folder, look, { signal: AbortSignal.timeout(5000) }), "there");
  await Deno.remove(folder, { recursive: true });
});

Deno.test("untilFolder() looks again without events, and without a folder that can be watched", async () => {
  const folder = await Deno.makeTempDir();
  for (const path of [folder, `${folder}/missing`]) {
    let looks = 0;
    const look = () => Promise.resolve(++looks === 3 ? looks : undefined);
    assertEquals(await untilFolder(path, look, { signal: AbortSignal.timeout(5000) }), 3);
  }
  await Deno.remove(folder);
});

Deno.test("untilFolder() ends with its deadline, and with what a look throws", async () => {
  const folder = await Deno.makeTempDir();
  using deadline = new Deadline(30, "a device");
  await assertRejects(() => untilFolder(folder, () => Promise.resolve(undefined), deadline), TimedOut, "a device");
  const broken = () => Promise.reject(new Error("broken"));
  await assertRejects(() => untilFolder(folder, broken, { signal: AbortSignal.timeout(5000) }), Error, "broken");
  await Deno.remove(folder);
});
