import { assertEquals, assertMatch, assertRejects } from "@std/assert";
import { Controller, VolumeCapability_AccessMode_Mode as Mode } from "../../proto/gen/csi_pb.ts";
import { connect } from "../../src/csi/rpc.ts";
import { startAuditor } from "../lab/kubernetes/auditor.ts";
import { DRIVER } from "../lab/kubernetes/cluster.ts";
import * as objects from "../lab/kubernetes/objects.ts";
import { scenarios } from "./scenarios.ts";
import { attach, attached, bound, detach, makeClaim, metricOf, removeClaim } from "./steps.ts";

const scenario = scenarios({ proxy: true });

/** Seconds without a sign of life after which nothing is decided any more. */
const LONGEST = 90;

scenario(
  "watches that are open and tell nothing for 90 s: they are begun anew, and nothing is attached nor released on their word",
  async (cluster) => {
    const { kube, replica, simulator } = cluster;
    const { proxy } = replica;
    await using auditor = await startAuditor(kube, { driver: DRIVER, simulator });
    await makeClaim(cluster, "silent");
    const { name, id } = await bound(cluster, "silent");
    await attach(cluster, "silent", { node: "node-a", volume: name });
    await attached(cluster, "silent");

    proxy.resetCounts();
    proxy.freezeWatches();
    const age = async () => await metricOf(cluster, "kubernetes_watch_age_seconds") ?? 0;
    await kube.wait("the watches to be silent for too long", async () => await age() > LONGEST || undefined);
    assertMatch(replica.output, /the Kubernetes API does not answer: trying again .*volumeattachments/);
    for (const path of [/volumeattachments/, /persistentvolumes/]) {
      await kube.wait("the silent watch to be begun anew", () => proxy.count("WATCH", path) > 0 || undefined);
    }
    {
      using controller = connect(Controller, replica.socket);
      const accessMode = { mode: Mode.SINGLE_NODE_WRITER };
      const volumeCapability = { accessType: { case: "block" as const, value: {} }, accessMode };
      for (const nodeId of ["node-a", "node-b"]) {
        const asking = () => controller.controllerPublishVolume({ volumeId: id, nodeId, volumeCapability });
        const why = String(await assertRejects(asking, Error, "UNAVAILABLE"));
        assertMatch(why, /Kubernetes has given no sign for \d+ s/);
      }
      const leaving = () => controller.controllerUnpublishVolume({ volumeId: id, nodeId: "node-a" });
      await assertRejects(leaving, Error, "Kubernetes has given no sign for");
    }

    proxy.thaw();
    await kube.wait("the watches to tell again", async () => await age() < 60 || undefined);
    await detach(cluster, "silent");
    await attach(cluster, "silent-second", { node: "node-b", volume: name });
    await attached(cluster, "silent-second");
    await auditor.assertSound();
    await detach(cluster, "silent-second");
    assertEquals(await kube.list(objects.volumeAttachments), []);
    await removeClaim(cluster, "silent");
  },
);
