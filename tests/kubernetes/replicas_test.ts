/**
 * Two replicas that are killed under load. `RDS_CSI_KILLS` says how often (10, or 50 with `--soak`; more than 20 take longer
 * than a file has without it), `RDS_CSI_SEED` repeats a run's choices.
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import { pause } from "../../src/runtime/deadline.ts";
import { startAuditor } from "../lab/kubernetes/auditor.ts";
import { type Cluster, DRIVER, HOME, WORK } from "../lab/kubernetes/cluster.ts";
import * as objects from "../lab/kubernetes/objects.ts";
import type { Replica } from "../lab/kubernetes/replica.ts";
import { print } from "../lab/layer.ts";
import { assertSameVolumes, Dice, Load, removeAll } from "./load.ts";
import { scenarios } from "./scenarios.ts";
import { assertNothingLeft, metricOf } from "./steps.ts";

const KILLS = Number(Deno.env.get("RDS_CSI_KILLS") ?? (Deno.env.get("RDS_CSI_SOAK") ? 50 : 10));
const SEED = Number(Deno.env.get("RDS_CSI_SEED") ?? Date.now() % 1_000_000);
/** Milliseconds without any change after which something that could move is stuck. */
const STUCK = 20_000;

const scenario = scenarios({ replicas: 2, settings: { "lease-duration": "5s" } });

/** The replica that looks after migrations. */
async function leader({ kube, replicas }: Cluster): Promise<Replica> {
  return await kube.wait("a replica to lead", async () => {
    for (const replica of replicas) if (await metricOf({ replica }, "leader") === 1) return replica;
    return undefined;
  });
}

async function kill(replica: Replica, dice: Dice): Promise<string> {
  if (dice.happens(0.4)) {
    await replica.restartController();
    return "the controller alone";
  }
  const milliseconds = Math.round(dice.throw() * 6000);
  await replica.crash();
  await pause(milliseconds);
  await replica.start();
  return `all of it, for ${milliseconds} ms`;
}

/** What the events of a claim say of its migrations, as {@linkcode Load.migrations} says what they must. */
async function migrationsTold({ kube }: Cluster, claim: string): Promise<string[]> {
  const events = (await kube.list(objects.events, WORK)).filter(({ involvedObject }) => involvedObject.name === claim);
  return events.flatMap(({ reason, message = "" }) => {
    const [, source, target] = /from (\S+) to (\S+)/.exec(message) ?? [];
    return reason?.startsWith("Migration") ? [`${reason} ${source} ${target}`] : [];
  });
}

async function assertMigrationsTold(cluster: Cluster, { migrations }: Load): Promise<void> {
  for (const [claim, must] of migrations) {
    let told: string[] = [];
    const isAll = async () => (told = await migrationsTold(cluster, claim)).length >= must.length || undefined;
    // What is missing is shown below.
    await cluster.kube.wait("the migrations to be told", isAll, { patience: 30_000 }).catch(() => {});
    assertEquals(told.sort(), must.sort(), `what is told of the migrations of ${claim}`);
  }
}

scenario(
  `two replicas are killed ${KILLS} times under load: no volume has two holders, none is stuck`,
  async (cluster) => {
    print(`RDS_CSI_SEED=${SEED}\n`);
    const dice = new Dice(SEED);
    await using auditor = await startAuditor(cluster.kube, { driver: DRIVER, simulator: cluster.simulator });
    const load = new Load(cluster, { dice: dice.another(), movers: 2, migrators: 2, racers: 4, churners: 1 });
    const lease = { name: "rds-csi-controller", namespace: HOME };
    const holders = new Set<string | undefined>();
    for (let turn = 1; turn <= KILLS; turn++) {
      const first = await leader(cluster);
      holders.add((await cluster.kube.get(objects.leases, lease)).spec?.holderIdentity);
      await load.further(4 + Math.floor(dice.throw() * 8));
      // Once for sure the one that leads.
      const victim = turn === 1 ? first : dice.pick(cluster.replicas);
      const how = await kill(victim, dice);
      const which = cluster.replicas.indexOf(victim) + 1;
      print(
        `kill ${turn}: replica ${which}${victim === first ? ", which leads" : ""}: ${how}; ${load.steps} steps done\n`,
      );
      await auditor.assertSound();
    }
    await leader(cluster);
    await load.further(10);
    await load.stop();
    await auditor.assertSound();
    await auditor.assertNothingStuck(STUCK);
    assert(holders.size > 1, "the driver's lease has never moved");
    await assertMigrationsTold(cluster, load);
    await assertSameVolumes(cluster);

    await removeAll(cluster);
    assertNothingLeft(cluster);
    await auditor.assertSound();
  },
);
