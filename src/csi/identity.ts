import {
  type Identity,
  PluginCapability_Service_Type as Service,
  PluginCapability_VolumeExpansion_Type as Expansion,
} from "../../proto/gen/csi_pb.ts";
import type { Handlers } from "./server.ts";

/** Who the plugin is. */
export interface IdentityOptions {
  name: string;
  version: string;
  /** When volumes grow. */
  expansion: "online" | "offline";
  /** Whether it can do its work; RouterOS being away does not change it. */
  ready: () => boolean;
}

/** The Identity service. */
export function identityService({ name, version, expansion, ready }: IdentityOptions): Handlers<typeof Identity> {
  const type = expansion === "online" ? Expansion.ONLINE : Expansion.OFFLINE;
  return {
    getPluginInfo: () => Promise.resolve({ name, vendorVersion: version }),
    getPluginCapabilities: () =>
      Promise.resolve({
        capabilities: [
          { type: { case: "service" as const, value: { type: Service.CONTROLLER_SERVICE } } },
          { type: { case: "volumeExpansion" as const, value: { type } } },
        ],
      }),
    probe: () => Promise.resolve({ ready: ready() }),
  };
}
