import { assertEquals, assertStringIncludes } from "@std/assert";
import { atWork, type NodeObject, whyDangerous } from "./danger.ts";
import { DRIVER, ID, node } from "./fake_controller.ts";

const volume = { driver: DRIVER, handle: ID };

Deno.test("whyDangerous() trusts only a node that is there, Ready, in service, and does not list the volume", () => {
  const odd: NodeObject = { metadata: { name: "odd" } };
  const notReady = { metadata: { name: "n" }, status: { conditions: [{ type: "MemoryPressure", status: "True" }] } };
  const table: [NodeObject | undefined, string | undefined][] = [
    [undefined, "gone from Kubernetes"],
    [odd, "not Ready (it does not say)"],
    [{ ...odd, status: {} }, "not Ready (it does not say)"],
    [notReady, "not Ready (it does not say)"],
    [node("n", { ready: "False" }), "not Ready (False)"],
    [node("n", { ready: "Unknown" }), "not Ready (Unknown)"],
    [node("n", { outOfService: true }), "out-of-service"],
    [node("n", { inUse: ["other", ID] }), "volumesInUse"],
    [node("n", { inUse: [`${ID}0`, "other"] }), undefined],
    [node("n"), undefined],
  ];
  for (const [given, why] of table) {
    const said = whyDangerous(given, volume);
    if (why === undefined) assertEquals(said, undefined);
    else assertStringIncludes(said ?? "", why);
  }
});

Deno.test("whyDangerous() trusts no node that was made anew since it was given the volume: its namesake may still write", () => {
  const born = (creationTimestamp: string) => {
    const made = node("n");
    return { ...made, metadata: { ...made.metadata, creationTimestamp } };
  };
  const since = Date.parse("2026-01-01T12:00:00Z");
  const why = (creationTimestamp: string) => whyDangerous(born(creationTimestamp), { ...volume, since });
  assertStringIncludes(why("2026-01-01T12:00:01Z") ?? "", "made anew");
  for (const earlier of ["2026-01-01T12:00:00Z", "2025-01-01T00:00:00Z"]) assertEquals(why(earlier), undefined);
  assertEquals(whyDangerous(born("2026-01-01T12:00:01Z"), volume), undefined, "what is not known says nothing");
});

Deno.test("atWork() takes claims for others at work, except where one that leaves had the only place", () => {
  const of = (nodeId: string, attached: boolean) => ({
    uid: nodeId,
    nodeId,
    attached,
    deleting: false,
    created: 0,
    seen: 0,
  });
  const names = (all: { nodeId: string }[]) => all.map(({ nodeId }) => nodeId).join();
  const all = [of("a", true), of("b", false)];
  assertEquals(names(atWork(all, ["a"], "single")), "");
  assertEquals(names(atWork(all, ["a"], "multi")), "b");
  assertEquals(names(atWork([of("a", false), of("b", false)], ["a"], "single")), "b");
  assertEquals(names(atWork([of("a", true), of("b", true)], ["a"], "single")), "b");
  assertEquals(names(atWork(all, ["a", "b"], "multi")), "");
});
