import { assertEquals, assertRejects } from "@std/assert";
import fc from "fast-check";
import { FailedPrecondition, NotFound } from "../runtime/errors.ts";
import { MemoryAttachments } from "./attachments.ts";
import { type AccessMode, decide, type Holder } from "./decide.ts";

const holder = (nodeId: string, mode: AccessMode = "single"): Holder => ({ nodeId, mode });

Deno.test("decide() grants a free volume, and knows a node that has it already", () => {
  assertEquals(decide([], holder("a")).kind, "grant");
  assertEquals(decide([holder("a")], holder("a")).kind, "already");
});

Deno.test("decide() refuses a second node while the first holds a ReadWriteOnce volume, and says who", () => {
  const decision = decide([holder("a")], holder("b"));
  assertEquals(decision.kind, "refuse");
  assertEquals(decision.kind === "refuse" && /attached to a,/.test(decision.why), true);
});

Deno.test("decide() lets one ReadWriteOnce request keep a ReadWriteMany one out, and the other way round", () => {
  assertEquals(decide([holder("a", "single")], holder("b", "multi")).kind, "refuse");
  assertEquals(decide([holder("a", "multi")], holder("b", "single")).kind, "refuse");
});

Deno.test("decide() gives a ReadWriteMany volume to two nodes and no third", () => {
  assertEquals(decide([holder("a", "multi")], holder("b", "multi")).kind, "grant");
  assertEquals(decide([holder("a", "multi"), holder("b", "multi")], holder("c", "multi")).kind, "refuse");
});

Deno.test("MemoryAttachments is idempotent both ways and knows no node that does not exist", async () => {
  const attachments = new MemoryAttachments(["a", "b"]);
  await attachments.detach("v", "a");
  await attachments.attach("v", holder("a"));
  await attachments.attach("v", holder("a"));
  assertEquals(attachments.holders("v"), [holder("a")]);
  await assertRejects(() => attachments.attach("v", holder("b")), FailedPrecondition, "v is refused to b");
  await assertRejects(() => attachments.attach("v", holder("x")), NotFound, "no node 'x'");
  await attachments.detach("v", undefined);
  assertEquals(attachments.holders("v"), []);
});

Deno.test("MemoryAttachments never has two nodes on a ReadWriteOnce volume nor three on any, whatever the order", async () => {
  const step = fc.record({
    attach: fc.boolean(),
    node: fc.constantFrom("a", "b", "c", "d"),
    mode: fc.constantFrom<AccessMode>("single", "multi"),
  });
  await fc.assert(fc.asyncProperty(fc.array(step, { maxLength: 40 }), async (steps) => {
    const attachments = new MemoryAttachments(["a", "b", "c", "d"]);
    for (const { attach, node, mode } of steps) {
      if (attach) await attachments.attach("v", { nodeId: node, mode }).catch(() => {});
      else await attachments.detach("v", node);
      const holders = attachments.holders("v");
      const most = holders.some((holder) => holder.mode === "single") ? 1 : 2;
      if (holders.length > most) return false;
    }
    return true;
  }));
});
