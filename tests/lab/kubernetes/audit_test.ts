import { assertEquals } from "@std/assert";
import fc from "fast-check";
import { Audit } from "./audit.ts";
import type { VolumeAttachment } from "./objects.ts";

/** What may be said of an attachment; its name is the PV's and the node's. */
interface Said {
  pv: string;
  node: string;
  is: "waits" | "attached" | "leaving" | "attached, leaving" | "gone";
  /** What the node was told, and what RouterOS has. */
  nqn?: string;
  present?: string;
  id?: string;
}

/** A history, a change a second; `waits` again is a change too, as when an error is written. */
function audit(volumes: Record<string, { handle: string; modes?: string[] }>, said: readonly Said[]): Audit {
  const audit = new Audit();
  said.forEach((each, second) =>
    audit.changed(changeOf(each, second), { at: second * 1000, present: () => each.present })
  );
  // Last, because what is known of volumes must not depend on when it came.
  for (const [name, { handle, modes = ["ReadWriteOnce"] }] of Object.entries(volumes)) {
    const csi = { driver: "d", volumeHandle: handle };
    audit.volumeSeen({ metadata: { name }, spec: { accessModes: modes, capacity: { storage: "1Gi" }, csi } });
  }
  return audit;
}

function changeOf({ pv, node, is, nqn, id }: Said, second: number) {
  const told = { ...(nqn ? { nvme_nqn: nqn } : {}), ...(id ? { volume_id: id } : {}) };
  const object: VolumeAttachment = {
    metadata: {
      name: `${pv}-${node}`,
      resourceVersion: String(100 + second),
      ...(is.includes("leaving") ? { deletionTimestamp: "2026-01-01T00:00:00Z" } : {}),
    },
    spec: { attacher: "d", nodeName: node, source: { persistentVolumeName: pv } },
    status: { attached: is.startsWith("attached"), attachmentMetadata: told },
  };
  return { type: is === "gone" ? "DELETED" as const : "MODIFIED" as const, object };
}

const once = { pv: { handle: "vol" } };
const many = { pv: { handle: "vol", modes: ["ReadWriteOnce", "ReadWriteMany"] } };
const a = { pv: "pv", node: "a" } as const;
const b = { pv: "pv", node: "b" } as const;
const c = { pv: "pv", node: "c" } as const;

Deno.test("Audit.conflicts() is silent when one node gets the volume after the other", () => {
  const history = [{ ...a, is: "attached" }, { ...b, is: "waits" }, { ...a, is: "gone" }, {
    ...b,
    is: "attached",
  }] as const;
  assertEquals(audit(once, history).conflicts(), []);
});

Deno.test("Audit.conflicts() names two nodes that had a ReadWriteOnce volume, also when it was over soon", () => {
  const history = [{ ...a, is: "attached" }, { ...b, is: "attached" }, { ...a, is: "gone" }] as const;
  assertEquals(audit(once, history).conflicts(), [{ volume: "vol", version: "101", nodes: ["a", "b"], limit: 1 }]);
});

Deno.test("Audit.conflicts() takes a node that is to let go for a holder until it has", () => {
  const leaving = [{ ...a, is: "attached" }, { ...a, is: "attached, leaving" }, { ...b, is: "attached" }] as const;
  assertEquals(audit(once, leaving).conflicts().length, 1);
  const detached = [{ ...a, is: "attached" }, { ...a, is: "leaving" }, { ...b, is: "attached" }] as const;
  assertEquals(audit(once, detached).conflicts(), []);
});

Deno.test("Audit.conflicts() lets two nodes have a ReadWriteMany volume, and not three", () => {
  const two = [{ ...a, is: "attached" }, { ...b, is: "attached" }] as const;
  assertEquals(audit(many, two).conflicts(), []);
  const three = audit(many, [...two, { ...c, is: "attached" }]).conflicts();
  assertEquals(three, [{ volume: "vol", version: "102", nodes: ["a", "b", "c"], limit: 2 }]);
});

Deno.test("Audit.conflicts() tells volumes by their handle: two PVs of one volume, and a PV that nobody has seen", () => {
  const twoNames = { pv: { handle: "vol" }, other: { handle: "vol" } };
  const history = [{ ...a, is: "attached" }, { pv: "other", node: "b", is: "attached" }] as const;
  assertEquals(audit(twoNames, history).conflicts().length, 1);
  assertEquals(audit({ ...twoNames, other: { handle: "another" } }, history).conflicts(), []);
  const told = [{ ...a, is: "attached" }, { pv: "unseen", node: "b", is: "attached", id: "vol" }] as const;
  assertEquals(audit(once, told).conflicts().length, 1);
  assertEquals(audit({}, [{ ...a, is: "attached" }, { ...b, is: "attached" }]).conflicts().length, 1);
});

Deno.test("Audit.conflicts() reports each time once", () => {
  const twice = [{ ...a, is: "attached" }, { ...b, is: "attached" }, { ...b, is: "attached" }] as const;
  const again = [{ ...b, is: "waits" }, { ...b, is: "attached" }] as const;
  assertEquals(audit(once, [...twice, ...again]).conflicts().map(({ version }) => version), ["101", "104"]);
});

Deno.test("Audit.conflicts() agrees with a count at every moment, on any history", () => {
  const said = fc.record({
    pv: fc.constantFrom("pv", "other"),
    node: fc.constantFrom("a", "b", "c"),
    is: fc.constantFrom("waits" as const, "attached" as const, "leaving" as const, "gone" as const),
  });
  fc.assert(fc.property(fc.array(said, { maxLength: 30 }), fc.boolean(), (history, isMany) => {
    const modes = isMany ? ["ReadWriteMany"] : ["ReadWriteOnce"];
    const volumes = { pv: { handle: "vol", modes }, other: { handle: "another", modes } };
    const holders = { pv: new Set<string>(), other: new Set<string>() };
    let isBad = false;
    for (const { pv, node, is } of history) {
      const its = holders[pv as "pv" | "other"];
      if (is === "attached") its.add(node);
      else its.delete(node);
      isBad ||= its.size > (isMany ? 2 : 1);
    }
    assertEquals(audit(volumes, history).conflicts().length > 0, isBad);
  }));
});

Deno.test("Audit.stuck() names who waits although nobody has the volume, from the last change that mattered", () => {
  const waiting = audit(once, [{ ...a, is: "attached" }, { ...b, is: "waits" }, { ...a, is: "gone" }, {
    ...b,
    is: "waits",
  }]);
  assertEquals(waiting.stuck(5000, 6000), []);
  const [stuck, ...more] = waiting.stuck(5000, 7000);
  assertEquals([stuck?.name, stuck?.why, stuck?.waited, more], ["pv-b", "does not come", 5000, []]);
});

Deno.test("Audit.stuck() is silent about who waits for a volume that another node has", () => {
  const held = [{ ...a, is: "attached" }, { ...b, is: "waits" }] as const;
  assertEquals(audit(once, held).stuck(1, 1e9), []);
  assertEquals(audit(many, held).stuck(1, 1e9).map(({ name }) => name), ["pv-b"]);
});

Deno.test("Audit.stuck() names the first of several that wait for a free volume", () => {
  assertEquals(audit(once, [{ ...b, is: "waits" }, { ...a, is: "waits" }]).stuck(1, 1e9).map(({ name }) => name), [
    "pv-b",
  ]);
});

Deno.test("Audit.stuck() names what is to be deleted and stays, and nothing that is attached or gone", () => {
  const leaving = audit(once, [{ ...a, is: "attached, leaving" }, { ...b, is: "waits" }]).stuck(1, 1e9);
  assertEquals(leaving.map(({ name, why }) => [name, why]), [["pv-a", "does not go"]]);
  assertEquals(audit(once, [{ ...a, is: "attached" }]).stuck(1, 1e9), []);
  assertEquals(audit(once, [{ ...a, is: "waits" }, { ...a, is: "gone" }]).stuck(1, 1e9), []);
});

Deno.test("Audit.mismatches() names a node that was told another NQN than RouterOS had when it was granted", () => {
  const told = { ...a, is: "attached", nqn: "nqn:vol" } as const;
  assertEquals(audit(once, [{ ...told, present: "nqn:vol" }]).mismatches(), []);
  const [wrong] = audit(once, [{ ...told, present: "nqn:vol.g1" }]).mismatches();
  assertEquals([wrong?.name, wrong?.told, wrong?.present], ["pv-a", "nqn:vol", "nqn:vol.g1"]);
  assertEquals(audit(once, [told]).mismatches().length, 1);
  // A fence changes it under a node that had it before.
  assertEquals(audit(once, [{ ...told, present: "nqn:vol" }, { ...told, present: "nqn:vol.g1" }]).mismatches(), []);
});
