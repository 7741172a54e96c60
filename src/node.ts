import { Identity, Node } from "../proto/gen/csi_pb.ts";
import type { Config } from "./config_read.ts";
import { identityService } from "./csi/identity.ts";
import { nodeService } from "./csi/node.ts";
import { CsiServer } from "./csi/server.ts";
import { everythingGranted } from "./permissions.ts";
import { Commands } from "./runtime/command.ts";
import { FailedPrecondition } from "./runtime/errors.ts";
import { serveHttp } from "./runtime/http.ts";
import { log } from "./runtime/log.ts";
import { Metrics } from "./runtime/metrics.ts";

/** The node: CSI Identity and Node on the socket. Ready is set last. */
export async function startNode(config: Config, version: string): Promise<{ stop(): Promise<void> }> {
  const roots = { proc: config.procRoot, sysfs: config.sysfsRoot, dev: config.devRoot };
  await checkRoots(roots);
  const metrics = new Metrics(version);
  const commands = new Commands();

  let ready = false;
  const server = new CsiServer({ socket: config.endpoint, group: config.socketGroup, metrics });
  server.add(
    Identity,
    identityService({ name: config.driverName, version, expansion: config.expansion, ready: () => ready }),
  );
  server.add(
    Node,
    nodeService({
      commands,
      roots,
      prefix: config.managedNqnPrefix,
      recordsFolder: `${config.endpoint.slice(0, config.endpoint.lastIndexOf("/"))}/volumes`,
      nodeId: config.nodeId,
      maxVolumesPerNode: config.maxVolumesPerNode,
      deadlines: {
        connect: config.connectDeadline,
        mkfs: config.mkfsDeadline,
        check: config.checkDeadline,
        command: config.toolDeadline,
      },
    }),
  );
  const http = serveHttp({ ...config.metricsAddress, metrics, ready: () => ready });
  metrics.observe({ commandsRunning: () => commands.running, commandsStuck: () => commands.stuck });

  await server.start();
  ready = true;
  log.info("the node serves", { socket: config.endpoint, metricsPort: http.port, nodeId: config.nodeId });
  return {
    async stop() {
      ready = false;
      await server.stop(config.shutdownGrace);
      await http.close();
    },
  };
}

/** Deno gives the real trees to a program with every permission only; the same trees mounted elsewhere are ordinary files. */
async function checkRoots(roots: Record<"proc" | "sysfs" | "dev", string>): Promise<void> {
  for (const [name, path] of Object.entries(roots)) {
    const real = /^\/(proc|sys|dev)(\/|$)/.test(path);
    if (real && !everythingGranted()) {
      throw new FailedPrecondition(
        `--${name}-root=${path} lies under a tree that Deno refuses to a program without every permission: mount the ` +
          "host's tree at another place (the chart uses /host), or run with -A",
      );
    }
    const isFolder = await Deno.stat(path).then((info) => info.isDirectory, () => false);
    if (!isFolder) throw new FailedPrecondition(`--${name}-root=${path} is no folder: mount the host's tree there`);
  }
}
