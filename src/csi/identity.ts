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
  /** Whether it can do its work; RouterOS being away does not change it. */
  ready: () => boolean;
}

/** The Identity service. */
export function identityService({ name, version, ready }: IdentityOptions): Handlers<typeof Identity> {
  return {
    getPluginInfo: () => Promise.resolve({ name, vendorVersion: version }),
    getPluginCapabilities: () =>
      Promise.resolve({
        capabilities: [
          { type: { case: "service" as const, value: { type: Service.CONTROLLER_SERVICE } } },
          { type: { case: "volumeExpansion" as const, value: { type: Expansion.ONLINE } } },
        ],
      }),
    probe: () => Promise.resolve({ ready: ready() }),
  };
}
