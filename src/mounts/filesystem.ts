import { type Commands, NotInstalled, type Output } from "../runtime/command.ts";
import { FailedPrecondition, InvalidArgument, Unreachable } from "../runtime/errors.ts";
import { log } from "../runtime/log.ts";

export const filesystemTypes = ["ext4", "ext3", "xfs"] as const;
export type FilesystemType = typeof filesystemTypes[number];

/** @throws {InvalidArgument} for a filesystem that the driver does not make */
export function filesystemType(name: string): FilesystemType {
  const known = filesystemTypes.find((type) => type === name);
  if (known) return known;
  throw new InvalidArgument(`filesystem '${name}' is not supported: use one of ${filesystemTypes.join(", ")} (fsType)`);
}

/** Milliseconds. */
export interface FilesystemDeadlines {
  mkfs: number;
  check: number;
  command: number;
}

/** What a device holds: nothing (proven), a filesystem, another thing with a name, or data that nobody knows. */
export type Content = { kind: "empty" } | { kind: "filesystem" | "other"; type: string } | {
  kind: "data";
  where: string;
};

interface Disk {
  path: string;
  /** Bytes. */
  size: number;
}

const MiB = 2 ** 20;

/**
 * Options for disks that are thin and far away: nothing was written there, so there is nothing to discard (`nodiscard`,
 * `-K`: on a large disk that alone can outlast a deadline), inode tables and journal are written by the kernel when they
 * are needed, and no blocks are kept back for root on a volume that root does not boot from (`-m 0`). So the file behind a
 * new disk stays thin: of 1 TiB less than 100 MiB are written by mkfs.ext4, and the log, at most 2 GiB, by mkfs.xfs. ext3
 * cannot leave its inode tables out (it has no checksums that would tell): two percent of the disk are written.
 */
const makers: Record<FilesystemType, { args: string[]; force: string }> = {
  ext4: { args: ["-q", "-m", "0", "-E", "nodiscard,lazy_itable_init=1,lazy_journal_init=1"], force: "-F" },
  ext3: { args: ["-q", "-m", "0", "-E", "nodiscard,lazy_journal_init=1"], force: "-F" },
  xfs: { args: ["-q", "-K"], force: "-f" },
};

interface ExtVerdict {
  leftErrors: boolean;
  text: string;
  /** Whether the journal was not replayed, so that what is found may be a false alarm. */
  beforeReplay: boolean;
}

/** Makes, checks and grows filesystems on devices that the caller has proven to be the volume's and live. */
export class Filesystems {
  readonly #commands: Commands;
  readonly #deadlines: FilesystemDeadlines;
  readonly #signal: AbortSignal | undefined;

  constructor(options: { commands: Commands; deadlines: FilesystemDeadlines; signal?: AbortSignal | undefined }) {
    this.#commands = options.commands;
    this.#deadlines = options.deadlines;
    this.#signal = options.signal;
  }

  /**
   * Looks what is on a device. Empty is only what blkid and wipefs find nothing on and which holds zeros at its beginning,
   * its end, where second superblocks are, and at places spread between: blkid alone says "nothing" too when it cannot read
   * the device, and when a filesystem has lost its first superblock.
   * @throws {Unreachable} when any of them gives another answer
   */
  async content(disk: Disk): Promise<Content> {
    const blkid = await this.#run("blkid", ["-p", "-o", "export", disk.path], this.#deadlines.command);
    if (blkid.code === 0) return recognised(blkid.stdout);
    if (blkid.code !== 2) throw unexpected("blkid -p", disk, blkid);
    const wipefs = await this.#run("wipefs", ["--no-act", disk.path], this.#deadlines.command);
    if (wipefs.code !== 0) throw unexpected("wipefs --no-act", disk, wipefs);
    if (wipefs.stdout.trim() !== "") return { kind: "other", type: shortened(wipefs.stdout) };
    for (const offset of placesToRead(disk.size)) {
      if (!await this.#zeros(disk, offset)) return { kind: "data", where: `the MiB at byte ${offset}` };
    }
    return { kind: "empty" };
  }

  async #zeros(disk: Disk, offset: number): Promise<boolean> {
    const bytes = Math.min(MiB, disk.size - offset);
    const args = ["-s", `--ignore-initial=${offset}:0`, `--bytes=${bytes}`, disk.path, "/dev/zero"];
    const output = await this.#run("cmp", args, this.#deadlines.command);
    if (output.code > 1) throw unexpected("cmp", disk, output);
    return output.code === 0;
  }

  /** Whether a mkfs.xfs was interrupted: `sb_inprogress`, byte 126 of the superblock (kernel: fs/xfs/libxfs/xfs_format.h). */
  async xfsUnfinished(disk: Disk): Promise<boolean> {
    return await this.#bytes(disk, 126, 1) === "01";
  }

  /**
   * Whether a second superblock of ext or xfs is on a device whose first one nobody can name: then this is more likely a
   * filesystem that lost its first superblock than a mkfs that was cut off.
   */
  async hasSecondSuperblock(disk: Disk): Promise<boolean> {
    for (const { at, magic } of secondSuperblocks(disk.size)) {
      const length = magic.split(" ").length;
      if (at + length <= disk.size && await this.#bytes(disk, at, length) === magic) return true;
    }
    return false;
  }

  /** Bytes in hexadecimal, with a blank between. */
  async #bytes(disk: Disk, at: number, count: number): Promise<string> {
    const args = ["-A", "n", "-t", "x1", "-j", String(at), "-N", String(count), disk.path];
    const output = await this.#run("od", args, this.#deadlines.command);
    if (output.code !== 0) throw unexpected("od", disk, output);
    return output.stdout.trim();
  }

  /**
   * Makes a filesystem on a device that {@linkcode content} has just proven empty.
   * @param options.force over what an interrupted mkfs left, which mkfs.xfs refuses by itself (mkfs.ext4 asks terminals only)
   * @throws {NotInstalled} before anything was written
   * @throws {Unreachable} when it fails
   */
  async make(type: FilesystemType, disk: Disk, options: { force: boolean }): Promise<void> {
    const { args, force } = makers[type];
    const all = [...args, ...(options.force ? [force] : []), disk.path];
    const output = await this.#run(`mkfs.${type}`, all, this.#deadlines.mkfs);
    if (output.code === 0) return;
    throw new Unreachable(
      `'mkfs.${type} ${all.join(" ")}' ended with ${output.code} and said: ${
        said(output)
      }. What it began is made anew when ` +
        "it is tried again on this node. Look whether the volume is large enough for the filesystem, and at dmesg",
    );
  }

  /**
   * Checks an existing ext filesystem, writing nothing. A journal that must be replayed is no error: mounting does that. Only
   * where the filesystem says of itself that it has errors, and nothing can be judged before its journal is replayed, is
   * that done first, as mounting would. xfs is not checked here: mounting finds what is wrong, and `xfs_repair -n` calls a
   * dirty log a defect.
   * @throws {FailedPrecondition} when it is damaged
   */
  async check(type: FilesystemType, disk: Disk): Promise<void> {
    if (type === "xfs") return;
    let verdict: ExtVerdict;
    try {
      verdict = await this.#extVerdict(disk);
    } catch (error) {
      if (!(error instanceof NotInstalled)) throw error;
      return log.warn("the filesystem is not checked: e2fsck is not installed", { device: disk.path });
    }
    const replayed = verdict.leftErrors && verdict.beforeReplay;
    if (replayed) {
      const output = await this.#run("e2fsck", ["-p", "-E", "journal_only", disk.path], this.#deadlines.check);
      if (output.code >= 8) throw unexpected("e2fsck -E journal_only", disk, output);
      verdict = await this.#extVerdict(disk);
    }
    if (!verdict.leftErrors) return;
    throw new FailedPrecondition(
      `the ${type} filesystem on ${disk.path} is damaged and nothing was written to it${
        replayed ? " (its journal was replayed)" : ""
      }. e2fsck said: ${
        shortened(verdict.text)
      }. Take a copy of the volume, then repair it with 'e2fsck -f ${disk.path}' ` +
        "while no pod uses it",
    );
  }

  async #extVerdict(disk: Disk): Promise<ExtVerdict> {
    const output = await this.#run("e2fsck", ["-n", disk.path], this.#deadlines.check);
    // Exit codes of e2fsck(8), added up: 4 errors left, 8 operational error, 16 usage, 32 cancelled, 128 + n by a signal.
    const leftErrors = output.code < 128 && (output.code & 4) !== 0;
    if (output.code >= 8 && !leftErrors) throw unexpected("e2fsck -n", disk, output);
    const text = output.stdout + output.stderr;
    return { leftErrors, text, beforeReplay: /skipping journal recovery/i.test(text) };
  }

  /**
   * Grows a mounted filesystem to its device; one that fills it already stays as it is.
   * @throws {FailedPrecondition} when the kernel refuses
   */
  async grow(type: string, disk: { path: string }, mountpoint: string): Promise<void> {
    const [program, argument] = type === "xfs"
      ? ["xfs_growfs", mountpoint] as const
      : ["resize2fs", disk.path] as const;
    const output = await this.#run(program, [argument], this.#deadlines.check);
    if (output.code === 0) return;
    throw new FailedPrecondition(
      `the ${type} filesystem at ${mountpoint} does not grow: ${program} ended with ${output.code}: ` +
        `${
          shortened(output.stderr)
        }. For ext4 the driver needs CAP_SYS_RESOURCE (a privileged container has it), and the ` +
        "kernel refuses where it has found errors before: see dmesg and 'dumpe2fs -h'",
    );
  }

  #run(program: string, args: string[], deadline: number): Promise<Output> {
    return this.#commands.run(program, args, { deadline, signal: this.#signal });
  }
}

function recognised(exported: string): Content {
  const fields = new Map(exported.split("\n").map((line) => line.split("=", 2) as [string, string]));
  const type = fields.get("TYPE");
  if (type && fields.get("USAGE") === "filesystem") return { kind: "filesystem", type };
  return { kind: "other", type: type ?? `${fields.get("PTTYPE") ?? "partition"} table` };
}

function unexpected(program: string, disk: { path: string }, output: Output): Unreachable {
  return new Unreachable(
    `'${program}' on ${disk.path} ended with ${output.code}: ${
      said(output)
    }. Nothing is concluded from that; it is tried ` +
      "again. Look at the NVMe session of the volume and at dmesg",
  );
}

function said({ stdout, stderr }: Output): string {
  return shortened(stderr.trim() || stdout) || "nothing";
}

/** Where the second allocation group of an xfs of this size begins (xfsprogs: calc_default_ag_geometry(), 4 KiB blocks). */
function xfsSecondGroup(size: number): number {
  const largest = 2 ** 40 / 4096 - 1;
  return Math.min(Math.ceil(Math.floor(size / 4096) / 4), largest) * 4096;
}

/** Where ext4 has its first backup superblock: at block 32768 of 4 KiB, 16384 of 2 KiB, 8193 of 1 KiB (kernel: fs/ext4/super.c). */
const extBackups = [32_768 * 4096, 16_384 * 2048, 8193 * 1024];

/** `s_magic`, byte 56 of an ext superblock, and `sb_magicnum`. */
function secondSuperblocks(size: number): { at: number; magic: string }[] {
  return [...extBackups.map((at) => ({ at: at + 56, magic: "53 ef" })), {
    at: xfsSecondGroup(size),
    magic: "58 46 53 42",
  }];
}

/** The beginnings of the MiB that must be zeros. */
function placesToRead(size: number): number[] {
  const spread = Array.from({ length: 7 }, (_, i) => Math.floor(size * (i + 1) / 8 / MiB) * MiB);
  const places = [0, Math.max(0, size - MiB), ...extBackups, xfsSecondGroup(size), ...spread];
  return [...new Set(places)].filter((place) => place === 0 || place < size);
}

function shortened(text: string): string {
  return text.trim().replaceAll(/\s*\n\s*/g, "; ").slice(0, 500);
}
