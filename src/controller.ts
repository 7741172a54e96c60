import { Controller, Identity } from "../proto/gen/csi_pb.ts";
import { MemoryAttachments } from "./attachments/memory.ts";
import type { Config } from "./config_read.ts";
import { controllerService } from "./csi/controller.ts";
import { identityService } from "./csi/identity.ts";
import { CsiServer } from "./csi/server.ts";
import { clusterIdOf, kubeOf, startKubernetes } from "./kubernetes.ts";
import { Connection } from "./rds/connection.ts";
import { Disks } from "./rds/disks.ts";
import { connectServer } from "./rds/server.ts";
import { loginOf } from "./rds/ssh.ts";
import { serveHttp } from "./runtime/http.ts";
import { log } from "./runtime/log.ts";
import { ControllerMetrics } from "./runtime/controller_metrics.ts";
import { Capacity } from "./volumes/capacity.ts";
import { Volumes } from "./volumes/volumes.ts";

/**
 * The controller: RouterOS over SSH, attachments as Kubernetes has them, CSI Identity and Controller on the socket. What
 * Kubernetes says is read first: before that nothing is served but HTTP. Ready is set last.
 */
export async function startController(config: Config, version: string): Promise<{ stop(): Promise<void> }> {
  await using started = new AsyncDisposableStack();
  const metrics = new ControllerMetrics(version);
  let ready = false;
  const http = serveHttp({ ...config.metricsAddress, metrics, ready: () => ready });
  started.defer(() => http.close());
  const connection = connectionOf(config, metrics);
  started.defer(() => connection.close());
  metrics.observe({ sshQueueLength: () => connection.queueLength, sshConnected: () => connection.connected });
  connection.start();

  const kube = config.standalone ? undefined : await kubeOf(config);
  const clusterId = kube && await clusterIdOf(config, kube);
  const volumes = volumesOf(config, { connection, metrics, clusterId });
  const kubernetes = kube && await startKubernetes(config, { kube, volumes, metrics, clusterId });
  if (kubernetes) started.defer(() => kubernetes.stop());
  const attachments = kubernetes?.attachments ?? new MemoryAttachments(config.standaloneNodes);

  const server = new CsiServer({ socket: config.endpoint, group: config.socketGroup, metrics });
  const { driverName: name, expansion, rdsAddress: serverAddress } = config;
  server.add(Identity, identityService({ name, version, expansion, ready: () => ready }));
  server.add(Controller, controllerService({ volumes, attachments, expansion, serverAddress }));
  await server.start();
  started.defer(async () => {
    ready = false;
    await server.stop(config.shutdownGrace);
  });
  kubernetes?.lead();
  ready = true;
  log.info("the controller serves", { socket: config.endpoint, metricsPort: http.port, routerOs: config.rdsAddress });
  const all = started.move();
  return { stop: () => all.disposeAsync() };
}

function connectionOf(config: Config, metrics: ControllerMetrics): Connection {
  if (config.rdsInsecureSkipVerify) {
    log.warn(
      "--rds-insecure-skip-verify: any server is taken for RouterOS; whoever is in between can read and delete all",
    );
  }
  const options = {
    host: config.rdsAddress,
    port: config.rdsPort,
    user: config.rdsUser,
    keyFile: config.rdsKeyFile,
    hostKeyFile: config.rdsHostKey,
    insecureSkipVerify: config.rdsInsecureSkipVerify,
  };
  return new Connection({
    connect: (signal) => connectServer(options, signal),
    login: () => loginOf(options),
    metrics,
  });
}

function volumesOf(
  config: Config,
  { connection, metrics, clusterId }: {
    connection: Connection;
    metrics: ControllerMetrics;
    clusterId: string | undefined;
  },
): Volumes {
  const disks = new Disks(connection, {
    read: config.rdsReadDeadline,
    create: config.rdsCreateDeadline,
    remove: config.rdsDeleteDeadline,
    resize: config.rdsCreateDeadline,
  });
  return new Volumes({
    disks,
    capacity: new Capacity({
      read: (pool) => disks.pool(pool),
      ratio: config.capacityRatio,
      reserve: config.capacityReserve,
      metrics,
    }),
    prefix: config.managedNqnPrefix,
    bases: [config.rdsVolumeBasePath, ...config.rdsAllowedBasePaths],
    serverAddress: config.rdsAddress,
    idForm: config.volumeIds,
    clusterId,
  });
}
