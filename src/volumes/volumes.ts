import { isVolumeId, nqnOf, parseManagedNqn } from "../nvme/nqn.ts";
import type { Disk } from "../rds/decode.ts";
import type { Disks, Found, Target } from "../rds/disks.ts";
import {
  AlreadyExists,
  FailedPrecondition,
  InvalidArgument,
  NoSpace,
  NotFound,
  OutOfRange,
  Unreachable,
} from "../runtime/errors.ts";
import type { Capacity } from "./capacity.ts";
import { type IdForm, otherIdOf, volumeIdOf } from "./id.ts";
import { readParameters, type Wishes } from "./parameters.ts";
import { poolOf, volumeFile } from "./path.ts";
import { sizeFits, sizeForNew, type SizeRange } from "./size.ts";
import { readToken, tokenAfter } from "./token.ts";

/** A volume: a disk on RouterOS that is proven to be ours. */
export interface Volume {
  id: string;
  /** Bytes, as RouterOS has it. */
  size: bigint;
  /** In its present generation. */
  nqn: string;
  /** On RouterOS, without leading slash. */
  file: string;
  port: number;
  exported: boolean;
  mountFilesystem: boolean;
}

/** What `create` is asked for. */
export interface CreateRequest {
  name: string;
  range: SizeRange;
  parameters: Readonly<Record<string, string>>;
}

/** Settings of {@linkcode Volumes}. */
export interface VolumesOptions {
  disks: Pick<Disks, "get" | "list" | "create" | "remove" | "resize" | "unmountFilesystem">;
  capacity: Capacity;
  /** The managed NQN prefix. */
  prefix: string;
  /** Where volumes may lie, in the form of `/file`; the first is where new ones go. */
  bases: readonly [string, ...string[]];
  serverAddress: string;
  idForm: IdForm;
  now?: () => number;
}

/** Milliseconds that a list may serve for its next pages, so that paging through it asks RouterOS once. */
const LIST_FRESH = 30_000;

/** The volumes on RouterOS. Every call may be repeated; each is one round trip. */
export class Volumes {
  readonly #options: VolumesOptions;
  #listed: { at: number; volumes: Volume[] } | undefined;

  constructor(options: VolumesOptions) {
    this.#options = options;
  }

  /** Makes the volume, or finds the one that an earlier call made (also one of the Go driver). */
  async create(
    request: CreateRequest,
    signal?: AbortSignal,
  ): Promise<{ volume: Volume; context: Record<string, string> }> {
    const { prefix, idForm, serverAddress } = this.#options;
    if (request.name === "") throw new InvalidArgument("the volume has no name: give one");
    const wishes = readParameters(request.parameters, serverAddress);
    const base = this.#base(wishes);
    const [id, otherId] = [volumeIdOf(request.name, idForm), otherIdOf(request.name, idForm)];
    const size = sizeForNew(request.range);
    const file = volumeFile(base, id);
    await this.#takeRoom(base, size, [id, otherId], signal);
    const target = { slot: id, files: [file], nqn: nqnOf(prefix, id) };
    const comment = ["rds-csi", wishes.claim].filter(Boolean).join(" ").slice(0, 128);
    const found = await this.#options.disks.create(
      { target, file, size, port: wishes.nvmePort, comment, otherSlot: otherId },
      signal,
    );
    const volume = this.#made(found, { ids: [id, otherId], range: request.range, file });
    return { volume, context: { ...wishes.context, volumePath: `/${volumeFile(base, volume.id)}`, nqn: volume.nqn } };
  }

  /** Removes export, row and file, and proves that they are gone. A volume that is not there is fine. */
  async delete(id: string, signal?: AbortSignal): Promise<void> {
    if (!isVolumeId(id)) return await this.#refuseForeign(id, signal);
    const found = await this.#options.disks.remove(this.#target(id), signal);
    const rest = found.disks[0];
    if (rest && !this.#ours(rest)) throw foreign(rest);
    if (rest || found.files > 0) {
      throw new Unreachable(
        `RouterOS still shows ${rest ? "the disk" : "the file"} of ${id} after deleting it; try again`,
      );
    }
  }

  /** Grows the volume to fit the range, never shrinks it. @returns bytes, as RouterOS has them */
  async expand(id: string, range: SizeRange, signal?: AbortSignal): Promise<bigint> {
    const wanted = sizeForNew(range);
    if (!isVolumeId(id)) {
      await this.#refuseForeign(id, signal);
      throw missing(id);
    }
    await this.#takeRoomToGrow(id, wanted, signal);
    const [disk] = (await this.#options.disks.resize(this.#target(id), wanted, signal)).disks;
    if (!disk) throw missing(id);
    const volume = this.#volume(disk);
    if (!volume) throw foreign(disk);
    if (volume.size < wanted) {
      throw new Unreachable(`RouterOS shows ${volume.size} bytes for ${id} after growing it to ${wanted}; try again`);
    }
    if (range.limit > 0n && volume.size > range.limit) {
      throw new OutOfRange(
        `${id} has ${volume.size} bytes, over limit_bytes ${range.limit}: it cannot be made smaller`,
      );
    }
    return volume.size;
  }

  /** The volume, or undefined when RouterOS says that there is none. @throws for a disk of that name that is not ours */
  async get(id: string, signal?: AbortSignal): Promise<Volume | undefined> {
    const disk = await this.#options.disks.get(id, signal);
    if (!disk) return undefined;
    const volume = this.#volume(disk);
    if (!volume) throw foreign(disk);
    return volume;
  }

  /** The volume. @throws {NotFound} when RouterOS says that there is none */
  async require(id: string, signal?: AbortSignal): Promise<Volume> {
    const volume = await this.get(id, signal);
    if (!volume) throw missing(id);
    return volume;
  }

  /** Makes a volume that nobody holds fit for a node: older drivers let RouterOS mount the file system inside. */
  async prepare(volume: Volume, signal?: AbortSignal): Promise<void> {
    if (!volume.exported) {
      throw new FailedPrecondition(
        `RouterOS does not export ${volume.id}: was it switched off by hand, or is it being deleted? To use it again run ` +
          `'/disk/set [find where slot="${volume.id}"] nvme-tcp-export=yes'`,
      );
    }
    if (volume.mountFilesystem) await this.#options.disks.unmountFilesystem(this.#target(volume.id), signal);
  }

  /** One page of volumes in the order of their ids. @param most 0: all */
  async list(
    page: { token: string; most: number },
    signal?: AbortSignal,
  ): Promise<{ volumes: Volume[]; next: string }> {
    if (page.most < 0) throw new InvalidArgument(`max_entries ${page.most} is negative: give 0 (all) or more`);
    const after = page.token === "" ? "" : readToken(page.token);
    const rest = (await this.#all(page.token === "", signal)).filter((volume) => volume.id > after);
    const volumes = page.most === 0 ? rest : rest.slice(0, page.most);
    const last = volumes.at(-1);
    return { volumes, next: last && volumes.length < rest.length ? tokenAfter(last.id) : "" };
  }

  /** Bytes that new volumes with these parameters may take. */
  async available(parameters: Readonly<Record<string, string>>, signal?: AbortSignal): Promise<bigint> {
    const wishes = readParameters(parameters, this.#options.serverAddress);
    return await this.#options.capacity.available(poolOf(this.#base(wishes)), signal);
  }

  async #all(anew: boolean, signal?: AbortSignal): Promise<Volume[]> {
    const now = (this.#options.now ?? Date.now)();
    if (!anew && this.#listed && now - this.#listed.at < LIST_FRESH) return this.#listed.volumes;
    const disks = await this.#options.disks.list(this.#options.prefix, signal);
    const volumes = disks.flatMap((disk) => this.#volume(disk) ?? []).sort((a, b) => a.id < b.id ? -1 : 1);
    this.#listed = { at: now, volumes };
    return volumes;
  }

  async #takeRoom(base: string, size: bigint, ids: string[], signal?: AbortSignal): Promise<void> {
    try {
      await this.#options.capacity.take(poolOf(base), size, signal);
    } catch (error) {
      if (!(error instanceof NoSpace || error instanceof OutOfRange)) throw error;
      const existing = await Promise.all(ids.map((id) => this.#options.disks.get(id, signal)));
      if (!existing.some((disk) => disk)) throw error;
    }
  }

  /** The whole size is room enough for sure; only where that is not there, what the volume has already is looked up. */
  async #takeRoomToGrow(id: string, wanted: bigint, signal?: AbortSignal): Promise<void> {
    const { capacity, bases } = this.#options;
    try {
      for (const pool of new Set(bases.map(poolOf))) await capacity.take(pool, wanted, signal);
    } catch (error) {
      if (!(error instanceof NoSpace || error instanceof OutOfRange)) throw error;
      const { size, file } = await this.require(id, signal);
      if (wanted > size) await capacity.take(poolOf(file), wanted - size, signal);
    }
  }

  /** What became of a create, from what RouterOS shows after it. */
  #made(found: Found, asked: { ids: string[]; range: SizeRange; file: string }): Volume {
    const [disk, second] = found.disks;
    if (second) {
      const slots = found.disks.map((disk) => `'${disk.slot}'`).join(", ");
      throw new AlreadyExists(`the disks ${slots} all have the slot, file or NQN of ${asked.ids[0]}: keep one of them`);
    }
    if (!disk && found.files > 0) {
      throw new FailedPrecondition(
        `a file without a disk lies at /${asked.file}, where the volume would go: if nobody needs it, remove it on ` +
          `RouterOS with '/file/remove [find where name="${asked.file}"]'`,
      );
    }
    if (!disk) throw new Unreachable(`RouterOS shows no disk after making ${asked.ids[0]}; try again`);
    const volume = this.#volume(disk);
    if (!volume || !asked.ids.includes(volume.id)) throw foreign(disk, AlreadyExists);
    if (!sizeFits(volume.size, asked.range)) {
      throw new AlreadyExists(
        `the volume ${volume.id} exists with ${volume.size} bytes, which does not fit what is asked (required ` +
          `${asked.range.required}, limit ${asked.range.limit}): use another name, or expand it`,
      );
    }
    return volume;
  }

  #base(wishes: Wishes): string {
    const { bases } = this.#options;
    const base = wishes.base ?? bases[0];
    if (bases.includes(base)) return base;
    throw new InvalidArgument(
      `volumePath '/${base}' is not allowed: use one of ${bases.map((base) => `/${base}`).join(", ")}, or add it to ` +
        "--rds-allowed-base-paths",
    );
  }

  #target(id: string): Target {
    return {
      slot: id,
      files: this.#options.bases.map((base) => volumeFile(base, id)),
      nqn: nqnOf(this.#options.prefix, id),
    };
  }

  #ours(disk: Disk): boolean {
    if (disk.type !== "file" || !isVolumeId(disk.slot)) return false;
    const named = parseManagedNqn(this.#options.prefix, disk.nqn);
    return named?.volumeId === disk.slot && this.#target(disk.slot).files.includes(disk.file);
  }

  #volume(disk: Disk): Volume | undefined {
    if (!this.#ours(disk)) return undefined;
    const { slot: id, size, nqn, file, port, exported, mountFilesystem } = disk;
    return { id, size, nqn, file, port, exported, mountFilesystem };
  }

  /** An id that is not of our form names no volume of ours; a disk that has this name is somebody else's. */
  async #refuseForeign(id: string, signal?: AbortSignal): Promise<void> {
    const disk = await this.#options.disks.get(id, signal);
    if (disk) throw foreign(disk);
  }
}

function missing(id: string): NotFound {
  return new NotFound(`RouterOS has no volume ${id}: it was deleted, or it is on another server`);
}

function foreign(disk: Disk, Kind: typeof InvalidArgument | typeof AlreadyExists = InvalidArgument): Error {
  return new Kind(
    `the disk '${disk.slot}' (file ${disk.file || "none"}, NQN ${
      disk.nqn || "none"
    }) is not a volume of this driver, so ` +
      "it is left alone: its slot, its file under the allowed base paths and its NQN after CSI_MANAGED_NQN_PREFIX must agree",
  );
}
