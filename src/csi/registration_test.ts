import { assertEquals, assertRejects } from "@std/assert";
import { Registration } from "../../proto/gen/plugin_registration_pb.ts";
import { labFolder } from "../../tests/lab/folder.ts";
import { FailedPrecondition } from "../runtime/errors.ts";
import { NodeMetrics } from "../runtime/node_metrics.ts";
import { registerWithKubelet } from "./registration.ts";
import { connect } from "./rpc.ts";

const driverName = "rds.csi.srvlab.io";
const endpoint = "/var/lib/kubelet/plugins/rds.csi.srvlab.io/csi.sock";

async function registered(metrics: NodeMetrics): Promise<string | undefined> {
  return /^rds_csi_kubelet_registered (\d)$/m.exec(await metrics.text())?.[1];
}

Deno.test("registerWithKubelet() says who the driver is, and believes what the kubelet says of it last", async () => {
  await using folder = await labFolder("registration");
  const metrics = new NodeMetrics("1");
  const registration = await registerWithKubelet({ folder: folder.path, driverName, endpoint, metrics });
  const socket = `${folder.path}/${driverName}-reg.sock`;
  {
    using kubelet = connect(Registration, socket);
    const { type, name, supportedVersions, ...info } = await kubelet.getInfo({});
    assertEquals([type, name, info.endpoint, supportedVersions], ["CSIPlugin", driverName, endpoint, ["1.0.0"]]);
    assertEquals([registration.accepted, await registered(metrics)], [false, "0"]);
    await kubelet.notifyRegistrationStatus({ pluginRegistered: true });
    assertEquals([registration.accepted, await registered(metrics)], [true, "1"]);
    await kubelet.notifyRegistrationStatus({ pluginRegistered: false, error: "two drivers of this name" });
    assertEquals([registration.accepted, await registered(metrics)], [false, "0"]);
  }
  await registration.close();
  await assertRejects(() => Deno.lstat(socket), Deno.errors.NotFound);
});

Deno.test("registerWithKubelet() without the kubelet's folder makes none: it would wait there for ever", async () => {
  await using folder = await labFolder("registration");
  const options = { folder: `${folder.path}/no`, driverName, endpoint, metrics: new NodeMetrics("1") };
  await assertRejects(() => registerWithKubelet(options), FailedPrecondition, "--registration-dir");
});
