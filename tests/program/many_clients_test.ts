import { assertEquals } from "@std/assert";
import { Controller } from "../../proto/gen/csi_pb.ts";
import { connect } from "../../src/csi/rpc.ts";
import { startController } from "../lab/driver.ts";
import { labFolder } from "../lab/folder.ts";
import { startProcess } from "../lab/process.ts";

/** Deno 2.9.6's HTTP/2 server crashes in many such runs: until that is mended this is for --soak. */
const soaking = Deno.env.get("RDS_CSI_SOAK") ? Deno.test : () => {};

soaking({
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
    for (let round = 0; round < 60; round++) {
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
