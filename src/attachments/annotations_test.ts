import { assertEquals, assertRejects } from "@std/assert";
import { Forbidden } from "../kube/errors.ts";
import { Busy, FailedPrecondition, Unreachable } from "../runtime/errors.ts";
import { Annotations } from "./annotations.ts";
import { annotationsOf, cluster, ID, NQN, putAttachment, PV, PVS, refuse } from "./fake_controller.ts";

Deno.test("attach() fails and grants nothing when the PV cannot be annotated; conflicts are tried again, five times", async () => {
  for (const error of [() => new Unreachable("500"), () => new Forbidden("403")]) {
    await cluster(async (it) => {
      putAttachment(it.api, "a");
      refuse(it.kube, `PATCH ${PVS}`, error);
      await assertRejects(() => it.attach("a"));
      assertEquals([it.granted, it.reasons], [[], []]);
    });
  }
  await cluster(async (it) => {
    putAttachment(it.api, "a");
    let quarrels = 4;
    it.kube.before = (verb) => {
      if (verb === "PATCH" && quarrels-- > 0) it.api.change(PVS, PV, ({ metadata }) => metadata.labels = { n: "1" });
    };
    await it.attach("a");
    assertEquals(annotationsOf(it.api)["attached-node"], "a");
    putAttachment(it.api, "a", { created: 7000 });
    quarrels = 5;
    await assertRejects(() => it.attach("a"), Busy, "409");
    assertEquals(it.granted.length, 1);
  });
});

Deno.test("attach() overwrites what an older driver left on the PV, and a missing PV is fine: one node at a time", async () => {
  const stale = { "rds.csi.srvlab.io/attached-node": "z", "rds.csi.srvlab.io/attached-at": "then", other: "stays" };
  await cluster(async (it) => {
    putAttachment(it.api, "a");
    await it.attach("a");
    assertEquals(annotationsOf(it.api)["attached-node"], "a");
    assertEquals(annotationsOf(it.api)["other"], "stays");
  }, { before: (api) => api.change(PVS, PV, ({ metadata }) => metadata.annotations = stale) });
  await cluster(async (it) => {
    putAttachment(it.api, "a");
    await it.attach("a", { mode: "multi" });
    putAttachment(it.api, "a", { nqn: NQN, volumeId: ID });
    putAttachment(it.api, "b");
    await assertRejects(() => it.attach("b", { mode: "multi" }), FailedPrecondition, "attached to a");
    assertEquals(it.granted.length, 1);
  }, { before: (api) => api.remove(PVS, PV) });
});

Deno.test("detach() goes on when the annotations cannot be cleared", async () => {
  await cluster(async (it) => {
    putAttachment(it.api, "a");
    await it.attach("a");
    putAttachment(it.api, "a", { nqn: NQN });
    refuse(it.kube, `PATCH ${PVS}`, () => new Unreachable("500"));
    await it.detach("a");
    assertEquals(annotationsOf(it.api)["attached-node"], "a");
    assertEquals(it.reasons, ["VolumeAttached", "VolumeDetached"]);
  });
});

Deno.test("Annotations.owe() notes an NQN, and any where there are two or it is not known; paid() takes away what it was told alone", async () => {
  await cluster(async (it) => {
    const annotations = new Annotations(it.kube);
    const { signal } = it;
    const table: [before: string | undefined, nqn: string | undefined, after: string][] = [
      [undefined, NQN, NQN],
      [NQN, NQN, NQN],
      [NQN, `${NQN}.g1`, "any"],
      [undefined, undefined, "any"],
      [NQN, undefined, "any"],
      ["any", NQN, "any"],
      ["any", undefined, "any"],
    ];
    for (const [before, nqn, after] of table) {
      const note = before === undefined ? {} : { "rds.csi.srvlab.io/fence-owed": before };
      it.api.change(PVS, PV, ({ metadata }) => metadata.annotations = note);
      await annotations.owe(PV, nqn, signal);
      assertEquals(await annotations.owed(PV, signal), after);
      await annotations.paid(PV, "another", signal);
      assertEquals(await annotations.owed(PV, signal), after);
      await annotations.paid(PV, after, signal);
      assertEquals(await annotations.owed(PV, signal), undefined);
    }
  });
});
