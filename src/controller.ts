import { Controller, Identity } from "../proto/gen/csi_pb.ts";
import { MemoryAttachments } from "./attachments/attachments.ts";
import type { Config } from "./config_read.ts";
import { controllerService } from "./csi/controller.ts";
import { identityService } from "./csi/identity.ts";
import { CsiServer } from "./csi/server.ts";
import { Connection } from "./rds/connection.ts";
import { Disks } from "./rds/disks.ts";
import { connectServer } from "./rds/server.ts";
import { loginOf } from "./rds/ssh.ts";
import { FailedPrecondition } from "./runtime/errors.ts";
import { serveHttp } from "./runtime/http.ts";
import { log } from "./runtime/log.ts";
import { Metrics } from "./runtime/metrics.ts";
import { Capacity } from "./volumes/capacity.ts";
import { Volumes } from "./volumes/volumes.ts";

/** The controller: RouterOS over SSH, CSI Identity and Controller on the socket. Ready is set last. */
export async function startController(config: Config, version: string): Promise<{ stop(): Promise<void> }> {
  if (!config.standalone) {
    throw new FailedPrecondition(
      "attachments are not read from Kubernetes yet: run with --standalone, which keeps them in memory (for trials only)",
    );
  }
  const metrics = new Metrics(version);
  const connection = connectionOf(config, metrics);
  const disks = new Disks(connection, {
    read: config.rdsReadDeadline,
    create: config.rdsCreateDeadline,
    remove: config.rdsDeleteDeadline,
    resize: config.rdsCreateDeadline,
  });
  const volumes = volumesOf(config, disks, metrics);
  const attachments = new MemoryAttachments(config.standaloneNodes);

  let ready = false;
  const server = new CsiServer({ socket: config.endpoint, group: config.socketGroup, metrics });
  server.add(
    Identity,
    identityService({ name: config.driverName, version, expansion: config.expansion, ready: () => ready }),
  );
  server.add(
    Controller,
    controllerService({ volumes, attachments, expansion: config.expansion, serverAddress: config.rdsAddress }),
  );
  const http = serveHttp({ ...config.metricsAddress, metrics, ready: () => ready });
  metrics.observe({ sshQueueLength: () => connection.queueLength, sshConnected: () => connection.connected });

  connection.start();
  await server.start();
  ready = true;
  log.info("the controller serves", { socket: config.endpoint, metricsPort: http.port, routerOs: config.rdsAddress });
  return {
    async stop() {
      ready = false;
      await server.stop(config.shutdownGrace);
      connection.close();
      await http.close();
    },
  };
}

function connectionOf(config: Config, metrics: Metrics): Connection {
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

function volumesOf(config: Config, disks: Disks, metrics: Metrics): Volumes {
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
  });
}
