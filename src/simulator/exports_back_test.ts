import { assertEquals } from "@std/assert";
import { Deadline, poll } from "../runtime/deadline.ts";
import { startSimulator } from "./simulator.ts";

const foreignDisks = [{
  "type": "file",
  "slot": "exported",
  "file-path": "/storage-pool/exported.img",
  "size": 2 ** 20,
  "nvme-tcp-export": true,
}];
const nqn = "nqn.2000-02.com.mikrotik:exported";

Deno.test("startSimulator() is there before its exports, when these are said to come back later", async () => {
  const poolFolder = await Deno.makeTempDir({ prefix: "rds-csi-" });
  for (const exportsBackAfter of [0, 200]) {
    const simulator = await startSimulator({ poolFolder, foreignDisks, guesses: { exportsBackAfter } });
    assertEquals(simulator.state().exports, exportsBackAfter === 0 ? [nqn] : []);
    using deadline = new Deadline(10_000, "the exports to be back");
    await poll(() => simulator.state().exports.length > 0 || undefined, { signal: deadline.signal });
    await simulator.close();
  }
  // One that is ended before they are back ends all the same, and shows none.
  const simulator = await startSimulator({ poolFolder, foreignDisks, guesses: { exportsBackAfter: 60_000 } });
  await simulator.close();
  assertEquals(simulator.state().exports, []);
  await Deno.remove(poolFolder, { recursive: true });
});
