import { assertEquals, assertRejects } from "@std/assert";
import fc from "fast-check";
import { FailedPrecondition, NotFound } from "../runtime/errors.ts";
import { MemoryAttachments } from "./memory.ts";
import type { AccessMode } from "./decide.ts";

const nothing = () => Promise.resolve();

Deno.test("MemoryAttachments is idempotent both ways and knows no node that does not exist", async () => {
  const attachments = new MemoryAttachments(["a", "b"]);
  const one = (nodeId: string) => attachments.attach("v", { nodeId, mode: "single" }, nothing);
  await attachments.detach("v", "a");
  await one("a");
  await one("a");
  assertEquals(attachments.holders("v"), ["a"]);
  await assertRejects(() => one("b"), FailedPrecondition, "v is refused to b: it is attached to a");
  await assertRejects(() => one("x"), NotFound, "no node 'x'");
  await attachments.detach("v", undefined);
  assertEquals(attachments.holders("v"), []);
});

Deno.test("MemoryAttachments lets one ReadWriteOnce attachment keep a ReadWriteMany one out, and the other way round", async () => {
  for (const [first, second] of [["single", "multi"], ["multi", "single"]] as const) {
    const attachments = new MemoryAttachments(["a", "b"]);
    await attachments.attach("v", { nodeId: "a", mode: first }, nothing);
    await assertRejects(() => attachments.attach("v", { nodeId: "b", mode: second }, nothing), FailedPrecondition);
  }
});

Deno.test("MemoryAttachments never has two nodes on a ReadWriteOnce volume nor three on any, whatever the order", async () => {
  const step = fc.record({
    attach: fc.boolean(),
    nodeId: fc.constantFrom("a", "b", "c", "d"),
    mode: fc.constantFrom<AccessMode>("single", "multi"),
  });
  await fc.assert(fc.asyncProperty(fc.array(step, { maxLength: 40 }), async (steps) => {
    const attachments = new MemoryAttachments(["a", "b", "c", "d"]);
    const modes = new Map<string, AccessMode>();
    for (const { attach, nodeId, mode } of steps) {
      if (attach) {
        await attachments.attach("v", { nodeId, mode }, nothing).then(() => modes.set(nodeId, mode), () => {});
      } else await attachments.detach("v", nodeId);
      const holders = attachments.holders("v");
      const most = holders.some((holder) => modes.get(holder) === "single") ? 1 : 2;
      if (holders.length > most) return false;
    }
    return true;
  }));
});
