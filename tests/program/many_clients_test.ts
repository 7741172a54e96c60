import { assertEquals } from "@std/assert";
import { Controller } from "../../proto/gen/csi_pb.ts";
import { connect } from "../../src/csi/rpc.ts";
import { startController } from "../lab/driver.ts";
import { labFolder } from "../lab/folder.ts";
import { startProcess } from "../lab/process.ts";

/** Without src/csi/http2.ts about one run of 60 rounds in three ends in a crash. */
const rounds = Deno.env.get("RDS_CSI_SOAK") ? 1200 : 200;

Deno.test({
  name: "the controller outlives many clients that end their connections at once",
  async fn() {
    await using folder = await labFolder("many");
    await using simulator = await startProcess({
      mode: "simulator",
      folder: folder.path,
      settings: { listen: "127.0.0.1:0", pool: `${folder.path}/pool`, "pool-size": "2T" },
    });
    const socket = `${folder.path}/controller/csi.sock`;
    await using controller = await startController(folder.path, simulator, socket);
    for (let round = 0; round < rounds; round++) {
      await Promise.all(Array.from({ length: 20 }, async () => {
        using client = connect(Controller, socket);
        await client.listVolumes({});
      }));
      controller.assertRunning();
    }
    controller.kill("SIGTERM");
    assertEquals((await controller.status).code, 0);
  },
});
