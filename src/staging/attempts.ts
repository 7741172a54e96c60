import { Busy, Cancelled, InUse, InvalidArgument, isRetriable, messageOf, Unreachable } from "../runtime/errors.ts";
import type { Known } from "./cluster.ts";
import type { StagingParts } from "./parts.ts";
import { publish, type PublishInput, unpublish } from "./publish.ts";
import { stage } from "./stage.ts";
import { unstage } from "./unstage.ts";
import type { Cancellable, VolumeInput } from "./volume.ts";

/** {@linkcode stage} behind the volume's circuit breaker, counted, and told of when it fails. Block volumes have no breaker. */
export async function attemptStage(parts: StagingParts, input: VolumeInput, options: Cancellable): Promise<void> {
  const volume = knownOf(input);
  const { volumeId, capability } = input;
  const work = () =>
    stage(parts, input, options).catch(async (error) => {
      await noteOutage(parts, volumeId, error);
      return tell(parts, { volume, error, during: "stage" });
    });
  parts.connects.delete(volumeId);
  try {
    await counted(parts, "stage", async () => {
      if (capability.kind === "block") await work();
      else await parts.breakers.run(volume, work, options);
    });
  } finally {
    parts.connects.delete(volumeId);
  }
}

/** A stage may fail because the server went away in the middle of it: then it is the connection that failed. */
async function noteOutage(parts: StagingParts, volumeId: string, error: unknown): Promise<void> {
  const outcome = parts.connects.get(volumeId);
  if (!outcome || outcome.error !== undefined) return;
  const session = await parts.sysfs.session(outcome.nqn).catch(() => undefined);
  // A stage that is refused for good ends the session that it made; else it is the kernel that gave it up.
  if (session ? session.live : !isRetriable(error)) return;
  parts.connects.set(volumeId, {
    ...outcome,
    error: new Unreachable(`the session of ${outcome.nqn} is no longer live`),
  });
}

/** {@linkcode unstage}, counted; what went wrong with the volume before is forgotten. */
export async function attemptUnstage(
  parts: StagingParts,
  input: Parameters<typeof unstage>[1],
  options: Cancellable,
): Promise<void> {
  await counted(parts, "unstage", () => unstage(parts, input, options));
  parts.breakers.forget(input.volumeId);
  parts.connects.delete(input.volumeId);
}

/** {@linkcode publish}, counted, and told of when it fails. */
export async function attemptPublish(parts: StagingParts, input: PublishInput, options: Cancellable): Promise<void> {
  const volume = knownOf(input);
  await counted(
    parts,
    "publish",
    () => publish(parts, input, options).catch((error) => tell(parts, { volume, error, during: "publish" })),
  );
}

/** {@linkcode unpublish}, counted. */
export async function attemptUnpublish(
  parts: StagingParts,
  input: Parameters<typeof unpublish>[1],
  options: Cancellable,
): Promise<void> {
  await counted(parts, "unpublish", () => unpublish(parts, input, options));
}

async function counted(parts: StagingParts, operation: string, work: () => Promise<void>): Promise<void> {
  let status = "failure";
  try {
    await work();
    status = "success";
  } finally {
    parts.metrics.mountOperations.inc({ operation, status });
  }
}

function knownOf({ volumeId, publishContext }: VolumeInput): Known {
  return { volumeId, pv: publishContext.pv_name || undefined };
}

interface Failure {
  volume: Known;
  error: unknown;
  during: "stage" | "publish";
}

/** Tells of what is wrong with the session or the device, not with the request or its moment; then throws it. */
function tell(parts: StagingParts, { volume, error, during }: Failure): never {
  const isOfTheMoment = [InvalidArgument, Cancelled, Busy, InUse].some((kind) => error instanceof kind);
  const outcome = parts.connects.get(volume.volumeId);
  const node = parts.nodeId ? `node ${parts.nodeId}` : "a node";
  if (isOfTheMoment) throw error;
  if (during === "stage" && outcome?.error !== undefined) {
    parts.cluster?.tell(volume, "ConnectionFailure", `${node} cannot connect: ${messageOf(error)}`);
  } else if (during === "stage" ? outcome !== undefined : !(error instanceof Unreachable)) {
    parts.cluster?.tell(volume, "MountFailure", `${node} cannot ${during} the volume: ${messageOf(error)}`);
  }
  throw error;
}
