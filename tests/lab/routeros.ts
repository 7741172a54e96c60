import { Connection } from "../../src/rds/connection.ts";
import { type DiskDeadlines, Disks } from "../../src/rds/disks.ts";
import { connectServer } from "../../src/rds/server.ts";
import type { SimulatorOptions } from "../../src/simulator/options.ts";
import { type Simulator, startSimulator } from "../../src/simulator/simulator.ts";
import { Capacity } from "../../src/volumes/capacity.ts";
import { Volumes, type VolumesOptions } from "../../src/volumes/volumes.ts";

export const prefix = "nqn.2000-02.com.mikrotik:pvc-";

/** A simulated RouterOS and the driver's way to it, over real SSH, in one process. */
export interface RouterOs extends AsyncDisposable {
  simulator: Simulator;
  folder: string;
  connection: Connection;
  disks: Disks;
  volumes: Volumes;
  /** A second driver with a connection of its own: a restarted controller, or another replica. */
  another(options?: Partial<VolumesOptions>): Promise<Volumes>;
}

/** What can be set. */
export interface RouterOsOptions {
  simulator?: Partial<SimulatorOptions>;
  deadlines?: Partial<DiskDeadlines>;
  volumes?: Partial<VolumesOptions>;
  now?: () => number;
}

const deadlines = { read: 5000, create: 5000, remove: 5000, resize: 5000 };

/** Starts a simulator in a folder of its own and connects to it. Everything goes when it is disposed of. */
export async function routerOs(options: RouterOsOptions = {}): Promise<RouterOs> {
  const folder = await Deno.makeTempDir({ prefix: "rds-csi-" });
  const simulator = await startSimulator({ poolFolder: `${folder}/pool`, ...options.simulator });
  await Deno.writeTextFile(`${folder}/host_key`, `${simulator.hostKey}\n`);
  const connections: Connection[] = [];

  function open(): { connection: Connection; disks: Disks } {
    const ssh = {
      host: simulator.host,
      port: simulator.port,
      user: "csi",
      keyFile: simulator.clientKeyFile ?? "",
      hostKeyFile: `${folder}/host_key`,
    };
    const connection = new Connection({ connect: (signal) => connectServer(ssh, signal), random: () => 0.01 });
    connection.start();
    connections.push(connection);
    return { connection, disks: new Disks(connection, { ...deadlines, ...options.deadlines }, options.now) };
  }

  function volumesOn(disks: Disks, more: Partial<VolumesOptions> = {}): Volumes {
    const capacity = new Capacity({ read: (pool) => disks.pool(pool), ratio: 1, reserve: 0n });
    return new Volumes({
      disks,
      capacity,
      prefix,
      bases: ["storage-pool/metal-csi"],
      serverAddress: "10.0.0.1",
      idForm: "short",
      ...options.volumes,
      ...more,
    });
  }

  const { connection, disks } = open();
  return {
    simulator,
    folder,
    connection,
    disks,
    volumes: volumesOn(disks),
    another: (more) => Promise.resolve(volumesOn(open().disks, more)),
    async [Symbol.asyncDispose]() {
      for (const connection of connections) connection.close();
      await simulator.close();
      await Deno.remove(folder, { recursive: true });
    },
  };
}

/** Waits until a condition holds; what never holds is a failure of the test. */
export async function until(condition: () => boolean | Promise<boolean>, what: string): Promise<void> {
  const end = Date.now() + 10_000;
  while (!(await condition())) {
    if (Date.now() > end) throw new Error(`it never came to pass: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
