import { attachmentOf, type Pv, pvOf, type VolumeAttachment } from "../attachments/objects.ts";
import type { Config } from "../config_read.ts";
import type { Kube } from "../kube/client.ts";
import { connectKube } from "../kube/connect.ts";
import { attachmentPath, type PvObject, pvPath, type VolumeAttachmentObject } from "../kube/objects.ts";
import { AnswerLost, Connection } from "../rds/connection.ts";
import { Disks } from "../rds/disks.ts";
import type { Script } from "../rds/script.ts";
import { connectSsh, type SshOptions, type Transport } from "../rds/ssh.ts";
import { FailedPrecondition } from "../runtime/errors.ts";
import { log } from "../runtime/log.ts";
import { Capacity } from "../volumes/capacity.ts";
import { Volumes } from "../volumes/volumes.ts";
import { addressOf, fetchText, parseExposition, type Sample } from "./exposition.ts";
import { requirePrefix } from "./node_world.ts";
import { once } from "./once.ts";

/** What Kubernetes has of the driver's volumes. */
export interface Wanted {
  pvs: Pv[];
  attachments: VolumeAttachment[];
  /** What tells this cluster's disks from those of others. */
  clusterId: string | undefined;
}

/** What the checks of the controller look at. What several of them ask for is looked at once. */
export interface ControllerWorld {
  readonly config: Config;
  readonly problems: readonly string[];
  readonly version: string;
  /** A login at RouterOS. @throws what connecting throws */
  login(signal: AbortSignal): Promise<Transport>;
  /** Runs a script that reads, and resolves to what it put out. */
  run(script: Script, doing: string, signal: AbortSignal): Promise<string>;
  disks(signal: AbortSignal): Promise<Disks>;
  /** The volumes on RouterOS that are ours, and files without a disk. */
  inventory(signal: AbortSignal): ReturnType<Volumes["inventory"]>;
  /** Undefined: there is no Kubernetes (`--standalone`). */
  kube(): Promise<Kube | undefined>;
  wanted(signal: AbortSignal): Promise<Wanted | undefined>;
  metrics(signal: AbortSignal): Promise<Sample[]>;
  close(): void;
}

/** Nothing is looked at yet. */
export function controllerWorld(
  config: Config,
  options: { problems: readonly string[]; version: string; kube?: Kube },
): ControllerWorld {
  const { problems, version } = options;
  let open: { connection: Connection; transport: Transport } | undefined;
  const login = once((signal: AbortSignal) => connectSsh(sshOptions(config), signal));
  const connection = once(async (signal: AbortSignal) => {
    const transport = await login(signal);
    const connection = new Connection({ connect: () => Promise.resolve(transport) });
    open = { connection, transport };
    connection.start();
    return connection;
  });
  const disks = once(async (signal: AbortSignal) => new Disks(await connection(signal), deadlines(config)));
  const kube = once(() => options.kube ? Promise.resolve(options.kube) : kubeOf(config));
  return {
    config,
    problems,
    version,
    login,
    disks,
    kube,
    async run(script, doing, signal) {
      const job = { kind: "diagnose", doing, deadline: config.rdsReadDeadline, signal, script: () => script };
      try {
        return await (await connection(signal)).run(job);
      } catch (error) {
        throw error instanceof AnswerLost ? error.cause : error;
      }
    },
    inventory: once(async (signal: AbortSignal) => await volumesOver(config, await disks(signal)).inventory(signal)),
    wanted: once(async (signal: AbortSignal) => {
      const api = await kube();
      return api && await wantedIn(api, config, signal);
    }),
    metrics: once(async (signal: AbortSignal) => {
      return parseExposition((await fetchText(addressOf(config.metricsAddress), "/metrics", signal)).text);
    }),
    close() {
      open?.connection.close();
      open?.transport.close();
    },
  };
}

/** How one logs in to RouterOS. @throws {FailedPrecondition} when it is not known where that is */
export function sshOptions(config: Config): SshOptions {
  const host = config.rdsAddress as string | undefined;
  if (host === undefined) {
    throw new FailedPrecondition("where RouterOS is, is not known: set --rds-address (RDS_CSI_RDS_ADDRESS)");
  }
  return {
    host,
    port: config.rdsPort,
    user: config.rdsUser,
    keyFile: config.rdsKeyFile,
    hostKeyFile: config.rdsHostKey,
    insecureSkipVerify: config.rdsInsecureSkipVerify,
  };
}

/** Where volumes may lie on RouterOS. */
export function basesOf({ rdsVolumeBasePath, rdsAllowedBasePaths }: Config): readonly [string, ...string[]] {
  return [rdsVolumeBasePath, ...rdsAllowedBasePaths];
}

function deadlines({ rdsReadDeadline: read }: Config) {
  return { read, create: read, remove: read, resize: read };
}

function volumesOver(config: Config, disks: Disks): Volumes {
  const { capacityRatio: ratio, capacityReserve: reserve } = config;
  return new Volumes({
    disks,
    capacity: new Capacity({ read: (pool) => disks.pool(pool), ratio, reserve }),
    prefix: requirePrefix(config),
    bases: basesOf(config),
    serverAddress: config.rdsAddress,
    idForm: "short",
  });
}

async function kubeOf(config: Config): Promise<Kube | undefined> {
  const { standalone, kubeconfig, namespace, kubeDeadline: deadline } = config;
  return standalone ? undefined : await connectKube({ kubeconfig, namespace, deadline });
}

async function wantedIn(kube: Kube, config: Config, signal: AbortSignal): Promise<Wanted> {
  const { driverName: driver } = config;
  const wanted: Wanted = { pvs: [], attachments: [], clusterId: config.clusterId };
  await kube.list<PvObject>(pvPath(), (object) => {
    const pv = pvOf(object, driver);
    if (pv) wanted.pvs.push(pv);
  }, { signal });
  await kube.list<VolumeAttachmentObject>(attachmentPath(), (object) => {
    try {
      const attachment = attachmentOf(object, driver);
      if (attachment) wanted.attachments.push(attachment);
    } catch (error) {
      log.debug("an attachment is left out", { error });
    }
  }, { signal });
  wanted.clusterId ??= (await kube.get("/api/v1/namespaces/kube-system", { signal })).metadata.uid;
  return wanted;
}
