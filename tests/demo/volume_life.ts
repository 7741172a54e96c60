import { Buffer } from "node:buffer";
import { createHash, randomBytes } from "node:crypto";
import {
  type Controller,
  type Node,
  type Volume,
  VolumeCapability_AccessMode_Mode as Mode,
  type VolumeCapabilitySchema,
} from "../../proto/gen/csi_pb.ts";
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { Client } from "../../src/csi/rpc.ts";
import { size, step } from "./steps.ts";

const GIB = 1n << 30n;
const DATA = 64 * 2 ** 20;

/** Whom to talk to, and where to put things. */
export interface Cluster {
  controller: Client<typeof Controller>;
  node: Client<typeof Node>;
  nodeId: string;
  folder: string;
}

/** What a volume is used as. */
export type Kind = "ext4" | "xfs" | "block";

type Capability = MessageInitShape<typeof VolumeCapabilitySchema>;

/** One volume as Kubernetes would treat it. Each call is made twice, because Kubernetes repeats them, too. */
export class VolumeLife {
  readonly #cluster: Cluster;
  readonly #kind: Kind;
  #volume: Volume | undefined;
  #publishContext: Record<string, string> = {};

  constructor(cluster: Cluster, kind: Kind) {
    this.#cluster = cluster;
    this.#kind = kind;
  }

  get #id(): string {
    return this.#volume?.volumeId ?? "";
  }
  get #staging(): string {
    return `${this.#cluster.folder}/staging-${this.#kind}`;
  }
  get #target(): string {
    return `${this.#cluster.folder}/target-${this.#kind}`;
  }
  /** Where data is written: a file in the volume, or the volume. */
  get #data(): string {
    return this.#kind === "block" ? this.#target : `${this.#target}/data`;
  }

  get #capability(): Capability {
    const accessMode = { mode: Mode.SINGLE_NODE_WRITER };
    if (this.#kind === "block") return { accessMode, accessType: { case: "block", value: {} } };
    return { accessMode, accessType: { case: "mount", value: { fsType: this.#kind } } };
  }

  async create(): Promise<void> {
    const { controller } = this.#cluster;
    const request = {
      name: `demo-${this.#kind}`,
      capacityRange: { requiredBytes: GIB },
      volumeCapabilities: [this.#capability],
    };
    const { volume } = await this.#twice("create 1 GiB", () => controller.createVolume(request));
    this.#volume = volume;
  }

  async attach(): Promise<void> {
    const { controller, nodeId } = this.#cluster;
    const request = {
      volumeId: this.#id,
      nodeId,
      volumeCapability: this.#capability,
      volumeContext: this.#volume?.volumeContext ?? {},
    };
    const { publishContext } = await this.#twice("attach", () => controller.controllerPublishVolume(request));
    this.#publishContext = publishContext;
  }

  async stage(): Promise<void> {
    await Deno.mkdir(this.#staging, { recursive: true });
    const request = { ...this.#nodeRequest(), stagingTargetPath: this.#staging };
    const how = this.#kind === "block" ? "connect" : "connect, make the filesystem where there is none, mount";
    await this.#twice(`stage (${how})`, () => this.#cluster.node.nodeStageVolume(request));
  }

  async publish(): Promise<void> {
    const request = { ...this.#nodeRequest(), stagingTargetPath: this.#staging, targetPath: this.#target };
    await this.#twice("publish", () => this.#cluster.node.nodePublishVolume(request));
  }

  /** Writes 64 MiB and answers their checksum. */
  write(): Promise<string> {
    return step(this.#title("write 64 MiB"), async () => {
      const bytes = randomBytes(DATA);
      using file = await Deno.open(this.#data, { write: true, create: this.#kind !== "block" });
      for (let at = 0; at < bytes.length;) at += await file.write(bytes.subarray(at));
      await file.sync();
      return createHash("sha256").update(bytes).digest("hex");
    }, shown);
  }

  /** Reads them back and compares. */
  async compare(expected: string): Promise<void> {
    const found = await step(this.#title("read them back"), async () => {
      using file = await Deno.open(this.#data);
      const bytes = Buffer.alloc(DATA);
      for (let at = 0; at < DATA;) {
        const read = await file.read(bytes.subarray(at));
        if (read === null) break;
        at += read;
      }
      return createHash("sha256").update(bytes).digest("hex");
    }, shown);
    if (found !== expected) throw new Error(`the checksum is ${found} and should be ${expected}: data are lost`);
  }

  /** Grows it to 2 GiB while it is in use. @param onNode whether the node can grow the filesystem now */
  async grow(onNode: boolean): Promise<void> {
    const { controller, node } = this.#cluster;
    const request = { volumeId: this.#id, capacityRange: { requiredBytes: 2n * GIB } };
    await this.#twice("grow to 2 GiB on RouterOS", () => controller.controllerExpandVolume(request));
    if (!onNode) return;
    const there = { ...request, volumePath: this.#target, stagingTargetPath: this.#staging };
    await this.#twice(
      "grow on the node, in use",
      () => node.nodeExpandVolume({ ...there, volumeCapability: this.#capability }),
    );
  }

  async stats(): Promise<void> {
    const request = { volumeId: this.#id, volumePath: this.#target, stagingTargetPath: this.#staging };
    await step(
      this.#title("stats"),
      () => this.#cluster.node.nodeGetVolumeStats(request),
      ({ usage, volumeCondition }) => {
        const bytes = usage[0];
        const health = volumeCondition?.abnormal ? volumeCondition.message : "well";
        return `${size(bytes?.total ?? 0n)} in all, ${size(bytes?.used ?? 0n)} used, ${health}`;
      },
    );
  }

  /** Unpublish, unstage, detach. */
  async leave(): Promise<void> {
    const { controller, node, nodeId } = this.#cluster;
    const volumeId = this.#id;
    await this.#twice("unpublish", () => node.nodeUnpublishVolume({ volumeId, targetPath: this.#target }));
    await this.#twice("unstage", () => node.nodeUnstageVolume({ volumeId, stagingTargetPath: this.#staging }));
    await this.detach(() => controller.controllerUnpublishVolume({ volumeId, nodeId }));
  }

  async detach(call = () => this.#cluster.controller.controllerUnpublishVolume({ volumeId: this.#id })): Promise<void> {
    await this.#twice("detach", call);
  }

  async delete(): Promise<void> {
    await this.#twice("delete", () => this.#cluster.controller.deleteVolume({ volumeId: this.#id }));
  }

  #nodeRequest() {
    return {
      volumeId: this.#id,
      volumeCapability: this.#capability,
      publishContext: this.#publishContext,
      volumeContext: this.#volume?.volumeContext ?? {},
    };
  }

  #title(what: string): string {
    return `${this.#kind.padEnd(5)} ${what}`;
  }

  async #twice<T>(what: string, call: () => Promise<T>): Promise<T> {
    return await step(this.#title(what), async () => {
      const began = performance.now();
      const value = await call();
      const first = performance.now() - began;
      await call();
      return { value, first };
    }, ({ first }) => `${Math.round(first)} ms; with the repeated call`).then(({ value }) => value);
  }
}

function shown(checksum: string): string {
  return `sha256 ${checksum.slice(0, 16)}…`;
}
