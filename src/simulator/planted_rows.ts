import { FailedPrecondition } from "../runtime/errors.ts";
import type { PlantedDisk, SimulatorOptions } from "./options.ts";
import type { DiskChange, Disks } from "./store.ts";

/** The first part of the paths on the pool. @throws {FailedPrecondition} when it is no single name */
export function mountPointOf({ mountPoint = "storage-pool" }: SimulatorOptions): string {
  if (/^[A-Za-z0-9._-]+$/.test(mountPoint)) return mountPoint;
  throw new FailedPrecondition(`the pool's mount point '${mountPoint}' must be one name without slashes`);
}

/** Puts the pool's own row and the foreign ones there. */
export function plantRows(disks: Disks, options: SimulatorOptions): void {
  const { poolSlot = "raid1", poolSize = 100 * 1024 ** 3, poolFs = "btrfs", poolLabel, foreignDisks = [] } = options;
  const mountPoint = mountPointOf(options);
  disks.plant(poolSlot, {
    "type": "raid",
    "fs-label": poolLabel ?? mountPoint,
    "fs-uuid": "5f1c2a9e-6d0b-4c6e-9a63-1f0f7d1c2b3a",
    "fs": poolFs,
    "size": poolSize,
    "free": "pool",
    "use": "",
    "mount-point": mountPoint,
    "raid-type": "6",
    "state": "clean",
  });
  for (const { slot, ...properties } of foreignDisks) {
    if ([...disks].some((row) => row.slot === slot)) continue;
    if (properties["type"] !== "file") disks.plant(String(slot), properties as { type: string });
    else disks.add(foreignFile(String(slot), properties));
  }
}

function foreignFile(slot: string, properties: PlantedDisk): DiskChange & { slot: string } {
  const nqn = properties["nvme-tcp-server-nqn"];
  const isOn = (name: string) => properties[name] === true || properties[name] === "yes";
  return {
    slot,
    file: String(properties["file-path"]).replace(/^\//, ""),
    size: Number(properties["size"] ?? 1024 ** 3),
    exported: isOn("nvme-tcp-export"),
    mountFilesystem: isOn("mount-filesystem"),
    comment: String(properties["comment"] ?? ""),
    ...(nqn === undefined ? {} : { nqn: String(nqn) }),
  };
}
