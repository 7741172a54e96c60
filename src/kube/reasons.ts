/** The reasons of the driver's events: how serious each is, and what it means for people. */
export const reasons = {
  VolumeAttached: { type: "Normal", meaning: "The volume was given to a node." },
  VolumeDetached: { type: "Normal", meaning: "The volume was taken from a node." },
  AttachmentConflict: {
    type: "Warning",
    meaning: "A node asked for a volume that another node has; it was refused. The message names the holder.",
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
    meaning: "With --fence=off a volume was freed although its node may still write to it: two writers may destroy it.",
  },
  OrphanDetected: {
    type: "Warning",
    meaning: "RouterOS has a disk or file of the driver that no PersistentVolume names.",
  },
  OrphanCleaned: { type: "Normal", meaning: "Such a disk or file was deleted." },
  MountFailure: { type: "Warning", meaning: "The volume could not be mounted on the node." },
  RecoveryFailed: { type: "Warning", meaning: "A mount whose device went away could not be brought back." },
  ConnectionFailure: { type: "Warning", meaning: "The node could not connect to the volume's export." },
  StaleMountDetected: { type: "Normal", meaning: "A mount whose device went away was found." },
  ConnectionRecovery: { type: "Normal", meaning: "The connection to the volume's export came back." },
} as const satisfies Record<string, { type: "Normal" | "Warning"; meaning: string }>;

/** The name of one of them. */
export type Reason = keyof typeof reasons;
