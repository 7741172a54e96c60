import { isVolumeId, nqnOf } from "../nvme/nqn.ts";
import type { Disk } from "../rds/decode.ts";
import type { Found } from "../rds/disk_scripts.ts";
import type { Disks } from "../rds/disks.ts";
import {
  AlreadyExists,
  Busy,
  Cancelled,
  FailedPrecondition,
  InvalidArgument,
  isRetriable,
  messageOf,
  NoSpace,
  NotFound,
  OutOfRange,
  Unreachable,
} from "../runtime/errors.ts";
import { log } from "../runtime/log.ts";
import type { Capacity } from "./capacity.ts";
import { checkClusterId, commentFor } from "./comment.ts";
import { fence, type Fenced } from "./fence.ts";
import { type IdForm, keyOf, otherIdOf, volumeIdOf } from "./id.ts";
import { foreign, isOurs, targetOf } from "./ownership.ts";
import { readParameters, type Wishes } from "./parameters.ts";
import { poolOf, volumeFile } from "./path.ts";
import { sizeFits, sizeForNew, type SizeRange } from "./size.ts";
import { type StrayFile, strayFiles } from "./strays.ts";
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
  /** Of the disk: who made it, and for which claim. */
  comment: string;
}

/** What `create` is asked for. */
export interface CreateRequest {
  name: string;
  range: SizeRange;
  parameters: Readonly<Record<string, string>>;
}

/** Settings of {@linkcode Volumes}. */
export interface VolumesOptions {
  disks: Pick<
    Disks,
    "get" | "list" | "inventory" | "settle" | "create" | "remove" | "resize" | "unmountFilesystem" | "fence"
  >;
  capacity: Capacity;
  /** The managed NQN prefix. */
  prefix: string;
  /** Where volumes may lie, in the form of `/file`; the first is where new ones go. */
  bases: readonly [string, ...string[]];
  serverAddress: string;
  idForm: IdForm;
  /** Written on each new disk, so that clusters which share a RouterOS know their own; see {@linkcode checkClusterId}. */
  clusterId?: string | undefined;
  now?: () => number;
}

/** Milliseconds after which a file without a disk is nobody's work in progress. */
const STRAY_AFTER = 60_000;

/** Milliseconds that a list may serve for its next pages, so that paging through it asks RouterOS once. */
const LIST_FRESH = 30_000;

/** The volumes on RouterOS. Every call may be repeated; each is one round trip. */
export class Volumes {
  readonly #options: VolumesOptions;
  readonly #strays = new Map<string, number>();
  #listed: { at: number; volumes: Volume[] } | undefined;

  /** @throws {InvalidArgument} when the cluster's id cannot stand in a comment */
  constructor(options: VolumesOptions) {
    if (options.clusterId !== undefined) checkClusterId(options.clusterId);
    this.#options = options;
  }

  /** Makes the volume, or finds the one that an earlier call made (also one of the Go driver). */
  async create(
    request: CreateRequest,
    signal?: AbortSignal,
  ): Promise<{ volume: Volume; context: Record<string, string> }> {
    if (request.name === "") throw new InvalidArgument("the volume has no name: give one");
    const wishes = readParameters(request.parameters, this.#options.serverAddress);
    const base = this.#base(wishes);
    const size = sizeForNew(request.range);
    const volume = await this.#make({ request, wishes, base, size }, signal);
    const { nqn, file, port } = volume;
    return { volume, context: { ...wishes.context, volumePath: `/${file}`, nvmePort: String(port), nqn } };
  }

  async #make(
    { request, wishes, base, size }: { request: CreateRequest; wishes: Wishes; base: string; size: bigint },
    signal?: AbortSignal,
  ): Promise<Volume> {
    const { disks, capacity, prefix, idForm, clusterId } = this.#options;
    const [id, otherId] = [volumeIdOf(request.name, idForm), otherIdOf(request.name, idForm)];
    const file = volumeFile(base, id);
    const target = { slot: id, key: keyOf(id), files: [file], nqn: nqnOf(prefix, id) };
    const comment = commentFor({ clusterId, claim: wishes.claim });
    const add = () => disks.create({ target, file, size, port: wishes.nvmePort, comment, otherSlot: otherId }, signal);
    const found = await disks.settle(target, signal) // Before anything is refused: it may be there already.
      .then(() => capacity.keep({ pool: poolOf(base), id: target.key, bytes: size }, add, signal))
      .catch(async (error) => {
        if (!(error instanceof NoSpace || error instanceof OutOfRange)) throw error;
        const existing = await Promise.all([id, otherId].map((id) => disks.get(id, signal)));
        if (!existing.some((disk) => disk)) throw error;
        return await add();
      })
      .catch(withoutForgetting);
    return this.#made(found, { ids: [id, otherId], range: request.range, file });
  }

  /** Removes export, row and file, and proves that they are gone. A volume that is not there is fine. */
  async delete(id: string, signal?: AbortSignal): Promise<void> {
    if (!isVolumeId(id)) return await this.#refuseForeign(id, signal);
    const found = await this.#options.disks.remove(targetOf(id, this.#options), signal);
    const other = found.disks.find((disk) => disk.slot !== id || !isOurs(disk, this.#options));
    if (other) throw foreign(other);
    if (found.disks.length > 1) throw severalDisks(found.disks);
    if (found.disks.length > 0 || found.files > 0) {
      const what = found.disks.length > 0 ? "the disk" : "the file";
      throw new Unreachable(`RouterOS still shows ${what} of ${id} after deleting it; try again`);
    }
  }

  /** Grows the volume to fit the range, never shrinks it. @returns bytes, as RouterOS has them */
  async expand(id: string, range: SizeRange, signal?: AbortSignal): Promise<bigint> {
    const wanted = sizeForNew(range);
    if (!isVolumeId(id)) {
      await this.#refuseForeign(id, signal);
      throw missing(id);
    }
    const [disk] = (await this.#grow(id, wanted, signal)).disks;
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

  /** The whole size is room enough for sure; only where that is not there, what the volume has already is looked up. */
  async #grow(id: string, wanted: bigint, signal?: AbortSignal): Promise<Found> {
    const { capacity, bases, disks } = this.#options;
    const resize = () => disks.resize(targetOf(id, this.#options), wanted, signal);
    const pools = new Set(bases.map(poolOf));
    if (pools.size === 1) {
      try {
        return await capacity.keep({ pool: poolOf(bases[0]), id: keyOf(id), bytes: wanted }, resize, signal);
      } catch (error) {
        if (!(error instanceof NoSpace || error instanceof OutOfRange)) throw error;
      }
    }
    const { size, file } = await this.require(id, signal);
    if (wanted <= size) return await resize();
    return await capacity.keep({ pool: poolOf(file), id: keyOf(id), bytes: wanted - size }, resize, signal);
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

  /** Makes sure that a node can use the volume: it is exported. */
  checkExported({ id, exported }: Volume): void {
    if (exported) return;
    throw new FailedPrecondition(
      `RouterOS does not export ${id}: was it switched off by hand, or is it being deleted? To use it again run ` +
        `'/disk/set [find where slot="${id}"] nvme-tcp-export=yes'`,
    );
  }

  /** Keeps RouterOS from mounting the file system inside, as older drivers let it. For a volume that nobody holds. */
  async unmountFilesystem({ id, mountFilesystem }: Volume, signal?: AbortSignal): Promise<void> {
    if (!mountFilesystem) return;
    const { disks } = await this.#options.disks.unmountFilesystem(targetOf(id, this.#options), signal);
    const isDone = disks.length === 1 && disks.every((disk) => isOurs(disk, this.#options) && !disk.mountFilesystem);
    if (!isDone) throw new Unreachable(`RouterOS may still mount the file system in ${id} itself; try again`);
  }

  /**
   * Cuts off a node that may still write to the volume: its export goes on under the next generation of the NQN, and the
   * nodes' reconnections to the old one are refused. Only while nobody else holds the volume.
   * @param heldNqn what that node was given, where it is known: if that is cut off already, nothing is done
   * @returns the NQNs before and after; undefined when there is nothing to cut off (any more)
   * @throws {Unreachable} unless RouterOS shows that it is done: until then the volume must not be given to another node
   */
  fence(id: string, heldNqn?: string, signal?: AbortSignal): Promise<Fenced | undefined> {
    return fence({ id, heldNqn }, { ...this.#options, signal });
  }

  /** What RouterOS has now of volumes of ours, in no order, and of files in volumes' places that no disk has. */
  async inventory(signal?: AbortSignal): Promise<{ volumes: Volume[]; strays: StrayFile[] }> {
    const { disks, bases } = this.#options;
    const there = await disks.inventory(bases, signal);
    return { volumes: there.disks.flatMap((disk) => this.#listable(disk) ?? []), strays: strayFiles(there, bases) };
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

  /** Bytes that new volumes with these parameters may take, and the most that one may have. */
  async available(
    parameters: Readonly<Record<string, string>>,
    signal?: AbortSignal,
  ): Promise<{ available: bigint; largest: bigint }> {
    const wishes = readParameters(parameters, this.#options.serverAddress);
    return await this.#options.capacity.available(poolOf(this.#base(wishes)), signal);
  }

  async #all(anew: boolean, signal?: AbortSignal): Promise<Volume[]> {
    const now = (this.#options.now ?? Date.now)();
    if (!anew && this.#listed && now - this.#listed.at < LIST_FRESH) return this.#listed.volumes;
    const disks = await this.#options.disks.list(this.#options.prefix, signal);
    const volumes = disks.flatMap((disk) => this.#listable(disk) ?? []).sort((a, b) => a.id < b.id ? -1 : 1);
    this.#listed = { at: now, volumes };
    return volumes;
  }

  /** What became of a create, from what RouterOS shows after it. */
  #made(found: Found, asked: { ids: string[]; range: SizeRange; file: string }): Volume {
    const [disk] = found.disks;
    if (found.disks.length > 1) throw severalDisks(found.disks);
    if (!disk && found.files > 0) throw this.#stray(asked.file);
    this.#strays.delete(asked.file);
    if (!disk) throw new Unreachable(`RouterOS shows no disk after making ${asked.ids[0]}; try again`);
    const volume = this.#volume(disk);
    if (!volume || !asked.ids.includes(volume.id)) throw foreign(disk, AlreadyExists);
    if (!volume.exported) {
      throw new Busy(
        `${volume.id} is there and not exported: it is being deleted, or was switched off by hand; try again`,
      );
    }
    if (!sizeFits(volume.size, asked.range)) {
      throw new AlreadyExists(
        `the volume ${volume.id} exists with ${volume.size} bytes, which does not fit what is asked (required ` +
          `${asked.range.required}, limit ${asked.range.limit}): use another name, or expand it`,
      );
    }
    return volume;
  }

  /** A file without a disk may be one that is just being made; only one that stays is in the way. */
  #stray(file: string): Error {
    const now = (this.#options.now ?? Date.now)();
    const since = this.#strays.get(file) ?? now;
    this.#strays.set(file, since);
    const what = `a file without a disk lies at /${file}, where the volume would go`;
    if (now - since < STRAY_AFTER) return new Busy(`${what}: it may be just being made; try again`);
    return new FailedPrecondition(
      `${what}: if nobody needs it, remove it on RouterOS with '/file/remove [find where name="${file}"]'`,
    );
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

  /** One odd row keeps nobody from the list of the others. */
  #listable(disk: Disk): Volume | undefined {
    try {
      return this.#volume(disk);
    } catch (error) {
      log.warn("a volume is left out of the list", { volumeId: disk.slot, error });
      return undefined;
    }
  }

  #volume(disk: Disk): Volume | undefined {
    if (!isOurs(disk, this.#options)) return undefined;
    const { slot: id, size, nqn, file, port, exported, mountFilesystem, comment } = disk;
    if (size === undefined) {
      throw new Unreachable(`RouterOS shows no size for ${id}: look at '/disk print detail' there`);
    }
    return { id, size, nqn, file, port, exported, mountFilesystem, comment };
  }

  /** An id that is not of our form names no volume of ours; a disk that has this name is somebody else's. */
  async #refuseForeign(id: string, signal?: AbortSignal): Promise<void> {
    const disk = await this.#options.disks.get(id, signal);
    if (disk) throw foreign(disk);
  }
}

/**
 * A create that was not proven to have done nothing is never answered with a code that the provisioner takes for final:
 * it would forget the volume.
 */
function withoutForgetting(error: unknown): never {
  const isDecided = [NoSpace, OutOfRange, Cancelled].some((kind) => error instanceof kind);
  if (isRetriable(error) || isDecided) throw error;
  throw new Unreachable(`${messageOf(error)}; try again`, { cause: error });
}

function severalDisks(disks: readonly Disk[]): Error {
  const slots = disks.map(({ slot, file }) => `'${slot}' (file /${file})`).join(", ");
  return new Unreachable(
    `the disks ${slots} stand for one volume: find out which row is the right one and remove the others (not their file)`,
  );
}

function missing(id: string): NotFound {
  return new NotFound(`RouterOS has no volume ${id}: it was deleted, or it is on another server`);
}
