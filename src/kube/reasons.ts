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
  MountFailure: {
    type: "Warning",
    meaning:
      "A node could not stage or publish the volume: its device, its filesystem or a mount. The message says what.",
  },
  ConnectionFailure: {
    type: "Warning",
    meaning: "A node cannot connect to the volume, or its session is not live: I/O waits until it is.",
  },
  ConnectionRecovery: { type: "Normal", meaning: "The volume's session is live again." },
  StaleMountDetected: {
    type: "Warning",
    meaning: "A mount of the volume stands over a device that is not there any more: whoever uses it gets errors.",
  },
  VolumeRecovered: {
    type: "Normal",
    meaning: "Such a mount was made anew, or what was wrong with the volume has passed.",
  },
  RecoveryFailed: {
    type: "Warning",
    meaning: "Such a mount could not be made anew. The message says why, and what to do.",
  },
  CircuitBreakerOpened: {
    type: "Warning",
    meaning:
      "Staging the volume failed several times in a row: the node does not try it for a while. The message says how to " +
      "make it try at once.",
  },
  SessionLetGo: {
    type: "Warning",
    meaning: "A session that would not come back was ended, and what was mounted over it was unmounted.",
  },
  DuplicateHostNqn: {
    type: "Warning",
    meaning: "Two nodes connect with one host NQN (machines cloned from one image, most likely): give each its own.",
  },
} as const satisfies Record<string, { type: "Normal" | "Warning"; meaning: string }>;

/** The name of one of them. */
export type Reason = keyof typeof reasons;
