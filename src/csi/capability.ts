import { type VolumeCapability, VolumeCapability_AccessMode_Mode as Mode } from "../../proto/gen/csi_pb.ts";
import type { AccessMode } from "../attachments/decide.ts";
import { InvalidArgument } from "../runtime/errors.ts";
import { fileSystems } from "../volumes/parameters.ts";

/** What a volume is used as. */
export interface Use {
  kind: "filesystem" | "block";
  /** Empty where the caller names none. */
  fsType: string;
  mode: AccessMode;
}

const single = [
  Mode.SINGLE_NODE_WRITER,
  Mode.SINGLE_NODE_READER_ONLY,
  Mode.SINGLE_NODE_SINGLE_WRITER,
  Mode.SINGLE_NODE_MULTI_WRITER,
];

/** Why the driver cannot give a volume this capability, or undefined. */
export function whyUnsupported(capability: VolumeCapability): string | undefined {
  const mode = capability.accessMode?.mode ?? Mode.UNKNOWN;
  if (capability.accessType.case === undefined) return "it says neither mount nor block";
  if (mode === Mode.UNKNOWN) return "it has no access mode";
  if (capability.accessType.case === "mount") {
    const { fsType } = capability.accessType.value;
    if (fsType !== "" && !fileSystems.includes(fsType)) {
      return `there is no fsType '${fsType}', only ${fileSystems.join(", ")}`;
    }
  }
  if (capability.accessType.case === "block" && mode === Mode.SINGLE_NODE_READER_ONLY) {
    return "a block volume cannot be kept read-only (its device node can be written to): use ReadWriteOnce";
  }
  if (single.includes(mode)) return undefined;
  if (mode !== Mode.MULTI_NODE_MULTI_WRITER) return `the access mode ${Mode[mode]} is not there: use ReadWriteOnce`;
  if (capability.accessType.case === "block") return undefined;
  return "ReadWriteMany is for block volumes only (a filesystem mounted on two nodes is destroyed): use volumeMode: Block " +
    "with KubeVirt, or ReadWriteOnce";
}

/** The use that one capability asks for. @throws {InvalidArgument} when the driver does not have it */
export function useOf(capability: VolumeCapability | undefined): Use {
  if (!capability) throw new InvalidArgument("volume_capability is missing: say mount or block, and an access mode");
  const why = whyUnsupported(capability);
  if (why) throw new InvalidArgument(`the volume capability is refused: ${why}`);
  return {
    kind: capability.accessType.case === "block" ? "block" : "filesystem",
    fsType: capability.accessType.case === "mount" ? capability.accessType.value.fsType : "",
    mode: capability.accessMode?.mode === Mode.MULTI_NODE_MULTI_WRITER ? "multi" : "single",
  };
}

/** The uses that a list asks for, which may not be empty. Throws as {@linkcode useOf}. */
export function usesOf(capabilities: readonly VolumeCapability[]): Use[] {
  if (capabilities.length === 0) throw new InvalidArgument("volume_capabilities is empty: say how the volume is used");
  return capabilities.map(useOf);
}
