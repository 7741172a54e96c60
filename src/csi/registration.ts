import { Registration } from "../../proto/gen/plugin_registration_pb.ts";
import { FailedPrecondition } from "../runtime/errors.ts";
import { log } from "../runtime/log.ts";
import type { NodeMetrics } from "../runtime/node_metrics.ts";
import { CsiServer, type Handlers } from "./server.ts";

/** How the node makes itself known. */
export interface RegistrationOptions {
  /** The kubelet's folder for sockets of plugins, like `/var/lib/kubelet/plugins_registry`. */
  folder: string;
  driverName: string;
  /** Path of the CSI socket, as the kubelet sees it. */
  endpoint: string;
  metrics: Pick<NodeMetrics, "grpcCalls" | "grpcDuration" | "registered">;
}

/** The driver's name at the kubelet. */
export interface KubeletRegistration {
  /** Whether the kubelet has accepted the driver, and not refused it since. */
  readonly accepted: boolean;
  /** Takes the socket away: the kubelet then takes the driver off its list. */
  close(): Promise<void>;
}

/** Milliseconds for answers under way: they are immediate. */
const GRACE = 500;

/**
 * Registers the driver with the kubelet (its plugin registration interface, v1): it watches the folder, asks who is there,
 * calls NodeGetInfo on the CSI socket, which must be served by now, and says what came of it. After a restart it asks again.
 * @throws {FailedPrecondition} when the folder is not there: no kubelet has it
 */
export async function registerWithKubelet(options: RegistrationOptions): Promise<KubeletRegistration> {
  const { folder, driverName, endpoint, metrics } = options;
  if (!await Deno.stat(folder).then((info) => info.isDirectory, () => false)) {
    throw new FailedPrecondition(
      `--registration-dir=${folder} is no folder: name the kubelet's (its --root-dir and /plugins_registry), or none ` +
        "when node-driver-registrar registers the driver",
    );
  }
  let accepted = false;
  metrics.registered.set(0);
  const handlers: Handlers<typeof Registration> = {
    getInfo: () => Promise.resolve({ type: "CSIPlugin", name: driverName, endpoint, supportedVersions: ["1.0.0"] }),
    notifyRegistrationStatus({ pluginRegistered, error }) {
      accepted = pluginRegistered;
      metrics.registered.set(accepted ? 1 : 0);
      if (accepted) log.info("the kubelet has registered the driver", { driverName });
      else log.error("the kubelet does not register the driver, and tries again", { driverName, error });
      return Promise.resolve({});
    },
  };
  const server = new CsiServer({ socket: `${folder}/${driverName}-reg.sock`, metrics });
  server.add(Registration, handlers);
  await server.start();
  return {
    get accepted() {
      return accepted;
    },
    async close() {
      accepted = false;
      metrics.registered.set(0);
      await server.stop(GRACE);
    },
  };
}
