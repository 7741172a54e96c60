/** The reasons of the driver's events: how serious each is, and what it means for people. */
export const reasons = {
  VolumeAttached: { type: "Normal", meaning: "The volume was given to a node." },
  VolumeDetached: { type: "Normal", meaning: "The volume was taken from a node." },
  AttachmentConflict: {
    type: "Warning",
    meaning:
      "A node asked for a volume that others have or asked for earlier, and was refused; or two nodes have a volume that " +
      "one may have. The message names them.",
  },
  MigrationStarted: {
    type: "Normal",
    meaning: "A second node was given a ReadWriteMany volume: a live migration begins.",
  },
  MigrationCompleted: { type: "Normal", meaning: "The node that the machine left gave the volume up." },
  MigrationFailed: { type: "Warning", meaning: "The node that the machine was to move to gave the volume up." },
  MigrationTimeout: {
    type: "Warning",
    meaning: "Two nodes have had the volume for longer than migrationTimeoutSeconds. Nothing is taken from either.",
  },
  VolumeFenced: {
    type: "Warning",
    meaning: "The node that had the volume may still be writing: its export was cut and moved to a new NQN.",
  },
  FenceFailed: {
    type: "Warning",
    meaning: "The export could not be cut, so the volume stays with its node until that works.",
  },
  FenceSkipped: {
    type: "Warning",
    meaning:
      "A node that may still write to the volume was not cut off: others use the volume (it is when they have left), or " +
      "--fence=off. Make sure that it is off.",
  },
  OrphanDetected: {
    type: "Warning",
    meaning: "RouterOS has a disk or file of the driver that no PersistentVolume names.",
  },
  OrphanCleaned: { type: "Normal", meaning: "Such a disk or file was deleted." },
} as const satisfies Record<string, { type: "Normal" | "Warning"; meaning: string }>;

/** The name of one of them. */
export type Reason = keyof typeof reasons;
