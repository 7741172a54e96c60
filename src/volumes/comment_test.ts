import { assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import { routerOs } from "../../tests/lab/routeros.ts";
import { InvalidArgument } from "../runtime/errors.ts";
import { checkClusterId, claimOf, clusterOf, commentFor } from "./comment.ts";

const clusterIds = fc.stringMatching(/^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/);
const GIB = 1n << 30n;

Deno.test("commentFor() names cluster and claim, each where there is one", () => {
  assertEquals(commentFor({ clusterId: "c-1", claim: "shop/db" }), "rds-csi cluster=c-1 shop/db");
  assertEquals(commentFor({ clusterId: "c-1" }), "rds-csi cluster=c-1");
  assertEquals(commentFor({ claim: "shop/db" }), "rds-csi shop/db");
  assertEquals(commentFor({}), "rds-csi");
  const [clusterId, claim] = ["c".repeat(63), `shop/${"d".repeat(200)}`];
  const cut = commentFor({ clusterId, claim });
  assertEquals([cut.length, cut], [128, `rds-csi cluster=${clusterId} ${claim}`.slice(0, 128)]);
});

Deno.test("clusterOf() reads back the cluster of any comment, whatever the claim, in 128 printable characters", () => {
  fc.assert(fc.property(clusterIds, fc.option(fc.string({ unit: "binary", maxLength: 300 })), (clusterId, claim) => {
    const comment = commentFor({ clusterId, claim: claim ?? undefined });
    return /^[\x20-\x7e]{1,128}$/.test(comment) && clusterOf(comment) === clusterId;
  }));
});

Deno.test("clusterOf() finds no cluster where none was given, whatever the claim says", () => {
  const claims = fc.oneof(fc.string({ unit: "binary" }), clusterIds.map((id) => `cluster=${id}`));
  fc.assert(fc.property(claims, (claim) => clusterOf(commentFor({ claim })) === undefined));
});

Deno.test("clusterOf() and claimOf() take nothing from comments that the driver did not write", () => {
  const others = ["", "cluster=a", "my disk", "rds-csi2 cluster=a", "x rds-csi cluster=a", "rds-csi  cluster=a"];
  for (
    const comment of [...others, "rds-csi cluster=", "rds-csi cluster=a=b", "rds-csi CLUSTER=a", "rds-csi cluster=ä"]
  ) {
    assertEquals(clusterOf(comment), undefined, comment);
  }
  assertEquals(claimOf("rds-csi cluster=a shop/db"), "shop/db");
  assertEquals(claimOf("rds-csi shop/db"), "shop/db");
  for (const comment of [...others, "rds-csi", "rds-csi cluster=a"]) assertEquals(claimOf(comment), undefined, comment);
});

Deno.test("checkClusterId() takes what a comment can hold, and refuses all else with what to give", () => {
  for (const id of ["a", "prod-1", "4b0f2c1e-8a53-4f7e-9d6a-0c1b2d3e4f50", "a".repeat(63)]) checkClusterId(id);
  for (const id of ["", " ", "a b", "-a", "a=b", "ä", "a\n", "a".repeat(64)]) {
    assertThrows(() => checkClusterId(id), InvalidArgument, "63 letters");
  }
});

Deno.test("Volumes.create() writes cluster and claim on the disk, and refuses to start with an id that cannot be written", async () => {
  await using it = await routerOs({ volumes: { clusterId: "prod-1" } });
  const names = { "csi.storage.k8s.io/pvc/name": "db", "csi.storage.k8s.io/pvc/namespace": "shop" };
  const { volume } = await it.volumes.create({ name: "a", range: { required: GIB, limit: 0n }, parameters: names });
  assertEquals(volume.comment, "rds-csi cluster=prod-1 shop/db");
  assertEquals((await it.volumes.require(volume.id)).comment, volume.comment);
  assertThrows(() => void it.another({ clusterId: "two words" }), InvalidArgument, "'two words'");
});
