import { assertEquals, assertMatch } from "@std/assert";
import { type Attachment, decide, SETTLED } from "./decide.ts";

function attachment(nodeId: string, more: Partial<Attachment> = {}): Attachment {
  return { uid: `uid-${nodeId}`, nodeId, attached: false, deleting: false, created: 1000, seen: 0, ...more };
}

const [a, b, c] = ["a", "b", "c"].map((nodeId) => attachment(nodeId)) as [Attachment, Attachment, Attachment];
const held = (one: Attachment): Attachment => ({ ...one, attached: true });
const rwo = (nodeId: string) => ({ nodeId, mode: "single" as const });
const rwx = (nodeId: string) => ({ nodeId, mode: "multi" as const });

function why(decision: ReturnType<typeof decide>): string {
  return "why" in decision ? decision.why : "";
}

Deno.test("decide() grants a volume that nobody else asks for, and knows a node that has it already", () => {
  assertEquals(decide([a], rwo("a"), 0).kind, "grant");
  assertEquals(decide([held(a)], rwo("a"), 0).kind, "already");
});

Deno.test("decide() waits until the request's own attachment is seen, and grants none that is being deleted", () => {
  assertEquals(decide([], rwo("a"), 0).kind, "wait");
  assertEquals(decide([{ ...a, deleting: true }], rwo("a"), 0).kind, "wait");
});

Deno.test("decide() refuses a second node while the first holds a ReadWriteOnce volume, and says who", () => {
  const decision = decide([held(a), b], rwo("b"), Infinity);
  assertEquals(decision.kind, "refuse");
  assertMatch(why(decision), /attached to a,.*end the pods there/);
  assertEquals(decide([held({ ...a, deleting: true }), b], rwo("b"), Infinity).kind, "refuse");
});

Deno.test("decide() takes a claim for somebody who may have it already: the oldest gets it, when an earlier grant would show", () => {
  const late = { ...b, created: 2000, seen: 500 };
  assertEquals(decide([a, late], rwo("b"), Infinity).kind, "refuse");
  assertMatch(why(decide([a, late], rwo("b"), Infinity)), /a asked for it earlier/);
  assertEquals(decide([a, late], rwo("a"), SETTLED + 499).kind, "wait");
  assertEquals(decide([a, late], rwo("a"), SETTLED + 500).kind, "grant");
});

Deno.test("decide() settles claims of the same second by UID, whatever their order in the list", () => {
  for (const claims of [[a, b], [b, a]]) {
    assertEquals(decide(claims, rwo("a"), Infinity).kind, "grant");
    assertEquals(decide(claims, rwo("b"), Infinity).kind, "refuse");
  }
});

Deno.test("decide() gives a ReadWriteMany volume to two nodes at once and no third", () => {
  assertEquals(decide([held(a), b], rwx("b"), 0).kind, "grant");
  assertEquals(decide([a, b], rwx("b"), 0).kind, "grant");
  assertEquals(decide([held(a), held(b), c], rwx("c"), Infinity).kind, "refuse");
  assertEquals(decide([a, b, c], rwx("a"), 0).kind, "wait");
  assertEquals(decide([a, b, c], rwx("b"), Infinity).kind, "grant");
  assertEquals(decide([a, b, c], rwx("c"), Infinity).kind, "refuse");
  assertEquals(decide([a, held(c), b], rwx("b"), Infinity).kind, "refuse");
});
