import { type NodeDeadlines, type StagingParts, stagingParts } from "../../src/staging/parts.ts";
import { publish, type PublishInput } from "../../src/staging/publish.ts";
import { stage } from "../../src/staging/stage.ts";
import type { Capability, VolumeInput } from "../../src/staging/volume.ts";
import { TestCluster } from "./cluster.ts";
import { ExportServer } from "./server.ts";
import { RecordingCommands, run, type StandIn, standIn } from "./stand_in.ts";

export const GiB = 2 ** 30;
export const prefix = "nqn.2000-02.com.mikrotik:pvc-";

/** A node that stages volumes of a server of its own, all of it in one folder. */
export class TestNode implements AsyncDisposable {
  readonly standIn: StandIn;
  readonly server: ExportServer;
  readonly commands: RecordingCommands;
  readonly kubeletFolder: string;
  readonly #deadlines: Partial<NodeDeadlines>;
  #cluster: TestCluster | undefined;
  parts: StagingParts;
  #volumes = 0;

  private constructor(standIn: StandIn, deadlines: Partial<NodeDeadlines>) {
    this.standIn = standIn;
    this.server = new ExportServer(standIn);
    this.kubeletFolder = `${standIn.folder}/kubelet`;
    this.commands = new RecordingCommands(standIn.env);
    this.#deadlines = deadlines;
    this.parts = this.#parts({});
  }

  static async start(deadlines: Partial<NodeDeadlines> = {}): Promise<TestNode> {
    return new TestNode(await standIn(), deadlines);
  }

  #parts(deadlines: Partial<NodeDeadlines>): StagingParts {
    const { folder, roots } = this.standIn;
    const kubernetes = this.#cluster ? { cluster: this.#cluster, nodeId: "node-1" } : {};
    const host = { etcRoot: `${folder}/etc-nvme` };
    return stagingParts({
      commands: this.commands,
      roots,
      prefix,
      recordsFolder: `${folder}/records`,
      kubeletFolder: this.kubeletFolder,
      deadlines: { ...this.#deadlines, ...deadlines },
      host,
      ...kubernetes,
    });
  }

  /** As if the agent had been killed and started again, with other deadlines if asked: only what is on disk is left of it. */
  restart(deadlines: Partial<NodeDeadlines> = {}): void {
    this.parts = this.#parts(deadlines);
  }

  /** From now on the node has Kubernetes, which has nothing of it yet, and its kubelet's folder is there. */
  async inKubernetes(): Promise<TestCluster> {
    this.#cluster = new TestCluster();
    await Deno.mkdir(this.kubeletFolder, { recursive: true });
    this.restart();
    return this.#cluster;
  }

  /** Makes a folder of a pod and gives a path in it, where a volume may be published. */
  async podPath(uid: string, name = "mount"): Promise<string> {
    const folder = `${this.kubeletFolder}/pods/${uid}/volumes/kubernetes.io~csi/pv`;
    await Deno.mkdir(folder, { recursive: true });
    return `${folder}/${name}`;
  }

  path(name: string): string {
    return `${this.standIn.folder}/${name}`;
  }

  /** Exports a new volume and makes its staging folder. */
  async volume(kind: "ext4" | "ext3" | "xfs" | "block", size = GiB): Promise<VolumeInput> {
    const number = ++this.#volumes;
    const volumeId = `pvc-${number.toString(16).padStart(28, "0")}`;
    const nqn = `${prefix}${volumeId.slice(4)}`;
    await this.server.offer(nqn, size);
    const stagingPath = this.path(`staging-${number}`);
    await Deno.mkdir(stagingPath);
    const capability: Capability = kind === "block" ? { kind } : { kind: "filesystem", fsType: kind, mountOptions: [] };
    const publishContext = {
      nvme_address: "127.0.0.1",
      nvme_port: String(this.server.port),
      nvme_nqn: nqn,
      size_bytes: String(size),
    };
    return { volumeId, stagingPath, capability, readOnly: false, publishContext, volumeContext: {} };
  }

  /** What publish is told to show a volume at a path of the test's folder. */
  at(volume: VolumeInput, name: string): PublishInput {
    return { ...volume, targetPath: this.path(name), exclusive: false };
  }

  /** Stages a volume and publishes it. */
  async up(volume: VolumeInput, name: string): Promise<PublishInput> {
    const input = this.at(volume, name);
    await stage(this.parts, volume);
    await publish(this.parts, input);
    return input;
  }

  nqn(volume: VolumeInput): string {
    return volume.publishContext.nvme_nqn ?? "";
  }

  /** Sets what sysfs says of the state of a volume's controllers. */
  async setState(volume: VolumeInput, state: string): Promise<void> {
    const session = await this.parts.sysfs.session(this.nqn(volume));
    for (const { name } of session?.controllers ?? []) {
      await Deno.writeTextFile(`${this.standIn.roots.sysfs}/class/nvme/${name}/state`, `${state}\n`);
    }
  }

  /** Runs the stand-in of nvme-cli, as somebody else on the node would. */
  async nvme(...args: string[]): Promise<string> {
    const { code, stdout, stderr } = await this.commands.run("nvme", args, { deadline: 60_000 });
    if (code !== 0) throw new Error(`nvme ${args.join(" ")} ended with ${code}: ${stderr}`);
    return stdout;
  }

  /** How many lines of mountinfo have this target. */
  async mountsAt(path: string): Promise<number> {
    return (await this.parts.mounts.all()).filter((mount) => mount.target === path).length;
  }

  /** The sessions that sysfs has of the volume. */
  async sessions(volume: VolumeInput): Promise<number> {
    return (await this.parts.sessions.ofVolume(volume.volumeId)).length;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.server[Symbol.dispose]();
    await this.standIn[Symbol.asyncDispose]();
  }
}

/** Whether the process may do what growing a mounted ext4 needs (the kernel asks for CAP_SYS_RESOURCE). */
export async function canGrowExt4(): Promise<boolean> {
  const effective = /^CapEff:\s*([0-9a-f]+)/m.exec(await run("cat", "/proc/self/status"))?.[1] ?? "0";
  return (BigInt(`0x${effective}`) >> 24n & 1n) === 1n;
}
