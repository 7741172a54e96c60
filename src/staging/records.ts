import { isVolumeId } from "../nvme/nqn.ts";
import type { Target } from "../nvme/session.ts";
import { FailedPrecondition, messageOf } from "../runtime/errors.ts";

/** What the node notes of a staged volume. A hint that may be lost: sysfs and mountinfo are the truth. */
export interface StagingRecord {
  volumeId: string;
  nqn: string;
  kind: "filesystem" | "block";
  /** The device's number when it was staged. */
  majorMinor: string;
  stagingPath: string;
  /** Name of its PV, where the node was told it. */
  pv?: string;
  /** How its session was made: what it is made with again when the kernel has given it up. */
  target?: Target;
  /** Bytes that the device had at least. */
  size?: number;
  /** How its filesystem was mounted: how it is mounted anew when its device was gone. */
  mount?: { fsType: string; options: string[] };
  /** Numbers that the device had before, of which mounts or device nodes are still here. */
  formerNumbers?: string[];
  /** The staging path, as mountinfo has it, while the mount of a device that is gone is replaced. */
  remounting?: string;
  /** Unstaging has begun: nothing of the volume is needed on this node any more. */
  unstaging?: true;
  /** Device nodes that were published. */
  targets?: string[];
  /** The filesystem that is being made on the device of this NQN: written before mkfs begins, gone once it has ended well. */
  mkfs?: string;
  /** The session ended since that mkfs began: the volume may have been elsewhere, and hold another node's filesystem. */
  mkfsLeft?: true;
  /** The target that is being made read-only: noted before it is mounted, gone once it is read-only. */
  readOnlyTarget?: string;
  /** The machine was started anew since it was staged: no device number of then says anything, and nothing is mounted. */
  rebooted?: true;
}

/** As it is on disk. */
interface Written extends StagingRecord {
  /** The start of the machine that it is of. */
  boot?: string;
}

const texts = ["volumeId", "nqn", "kind", "majorMinor", "stagingPath"] as const;
const optionalTexts = ["pv", "mkfs", "readOnlyTarget", "remounting", "boot"] as const;
const optionalMarks = ["unstaging", "mkfsLeft", "rebooted"] as const;
const optionalLists = ["targets", "formerNumbers"] as const;

function isRecord(value: unknown): value is Written {
  const record = value as Record<string, unknown> | null;
  return typeof record === "object" && record !== null && texts.every((key) => typeof record[key] === "string") &&
    optionalTexts.every((key) => record[key] === undefined || typeof record[key] === "string") &&
    (record.kind === "filesystem" || record.kind === "block") &&
    optionalMarks.every((key) => record[key] === undefined || record[key] === true) && isTarget(record.target) &&
    (record.size === undefined || Number.isSafeInteger(record.size)) && isMount(record.mount) &&
    optionalLists.every((key) => record[key] === undefined || isTexts(record[key]));
}

function isTexts(value: unknown): boolean {
  return Array.isArray(value) && value.every((each) => typeof each === "string");
}

function isMount(value: unknown): boolean {
  if (value === undefined) return true;
  const mount = value as Record<string, unknown> | null;
  return typeof mount === "object" && mount !== null && typeof mount.fsType === "string" && isTexts(mount.options);
}

function isTarget(value: unknown): boolean {
  if (value === undefined) return true;
  const target = value as Record<string, unknown> | null;
  return typeof target === "object" && target !== null && typeof target.nqn === "string" &&
    typeof target.address === "string" &&
    ["port", "ctrlLossTmo", "reconnectDelay", "keepAliveTmo"].every((key) => Number.isInteger(target[key]));
}

/** Which start of the machine this is (kernel: drivers/char/random.c); undefined where that cannot be read. */
export async function bootId(procRoot: string): Promise<string | undefined> {
  return (await Deno.readTextFile(`${procRoot}/sys/kernel/random/boot_id`).catch(() => "")).trim() || undefined;
}

/** Device nodes stay on disk, so that they can be removed. */
function afterReboot(record: StagingRecord): StagingRecord {
  const { formerNumbers: _numbers, remounting: _remounting, readOnlyTarget: _target, ...kept } = record;
  return { ...kept, majorMinor: "", rebooted: true };
}

/** One small file a volume in a folder beside the plugin's socket. */
export class Records {
  readonly #folder: string;
  readonly #boot: () => Promise<string | undefined>;

  /** @param options.boot which start of the machine this is; where it is not known, all records are taken for its own */
  constructor(folder: string, options: { boot?: () => Promise<string | undefined> } = {}) {
    this.#folder = folder;
    this.#boot = options.boot ?? (() => Promise.resolve(undefined));
  }

  #path(volumeId: string): string {
    if (!isVolumeId(volumeId)) throw new Error(`'${volumeId}' is no volume id`); // It becomes part of a path.
    return `${this.#folder}/${volumeId}.json`;
  }

  /**
   * The record of a volume; `undefined` when there is none.
   * @throws {FailedPrecondition} when it cannot be read or understood, which does not say that there is none
   */
  async read(volumeId: string): Promise<StagingRecord | undefined> {
    const path = this.#path(volumeId);
    let value: unknown;
    try {
      value = JSON.parse(await Deno.readTextFile(path));
    } catch (error) {
      if (error instanceof Deno.errors.NotFound) return undefined;
      throw unusable(path, `cannot be read (${messageOf(error)})`, error);
    }
    if (!isRecord(value) || value.volumeId !== volumeId) {
      throw unusable(path, "has another form than this driver writes");
    }
    const { boot, ...record } = value;
    const now = boot === undefined ? undefined : await this.#boot();
    return now === undefined || now === boot ? record : afterReboot(record);
  }

  /** Writes a record so that after a crash either the old or the new one is there, whole. */
  async write(record: StagingRecord): Promise<void> {
    const path = this.#path(record.volumeId);
    const boot = await this.#boot();
    const written: Written = { ...record, ...(boot === undefined ? {} : { boot }) };
    await Deno.mkdir(this.#folder, { recursive: true, mode: 0o700 });
    {
      using file = await Deno.open(`${path}.new`, { write: true, create: true, truncate: true, mode: 0o600 });
      const bytes = new TextEncoder().encode(`${JSON.stringify(written)}\n`);
      for (let written = 0; written < bytes.length;) written += await file.write(bytes.subarray(written));
      await file.sync();
    }
    await Deno.rename(`${path}.new`, path);
    await this.#syncFolder();
  }

  /** Removes the record of a volume. None is fine. */
  async remove(volumeId: string): Promise<void> {
    await Deno.remove(this.#path(volumeId)).catch((error) => {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    });
  }

  /** The ids of all volumes that have a record. */
  async volumeIds(): Promise<string[]> {
    try {
      const names = (await Array.fromAsync(Deno.readDir(this.#folder))).map((entry) => entry.name);
      return names.filter((name) => name.endsWith(".json")).map((name) => name.slice(0, -5)).filter(isVolumeId).sort();
    } catch (error) {
      if (error instanceof Deno.errors.NotFound) return [];
      throw error;
    }
  }

  async #syncFolder(): Promise<void> {
    using folder = await Deno.open(this.#folder, { read: true });
    await folder.sync();
  }
}

function unusable(path: string, why: string, cause?: unknown): FailedPrecondition {
  return new FailedPrecondition(
    `the staging record ${path} ${why}, so it is not known where the volume is published. Look at the file and at the disk; ` +
      "when no pod on this node uses the volume, an administrator may remove the file",
    { cause },
  );
}
