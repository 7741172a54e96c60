import { type LabFolder, labFolder } from "../lab/folder.ts";
import { type Cluster, type ClusterOptions, startCluster } from "../lab/kubernetes/cluster.ts";
import { print } from "../lab/layer.ts";

/** A test that has a cluster to work on. */
export type Scenario = (name: string, run: (cluster: Cluster) => Promise<void>) => void;

/**
 * Starts a cluster before the tests of a file and ends it after them.
 * @returns what such a test is written with: when it fails, it shows what all processes wrote
 */
export function scenarios(options: ClusterOptions = {}): Scenario {
  let folder: LabFolder | undefined;
  let cluster: Cluster | undefined;

  Deno.test.beforeAll(async () => {
    folder = await labFolder("kubernetes");
    cluster = await startCluster(folder.path, options);
  });

  Deno.test.afterAll(async () => {
    await cluster?.[Symbol.asyncDispose]();
    await folder?.[Symbol.asyncDispose]();
  });

  return (name, run) => {
    // The cluster's processes outlive each test.
    Deno.test({ name, sanitizeOps: false, sanitizeResources: false, fn: () => shown(run, cluster) });
  };
}

async function shown(run: (cluster: Cluster) => Promise<void>, cluster: Cluster | undefined): Promise<void> {
  if (!cluster) throw new Error("the cluster did not start");
  try {
    await run(cluster);
  } catch (error) {
    print(cluster.report());
    throw error;
  }
}
