/**
 * RouterOS that is cut off, hangs and reboots while volumes grow, and under a load of all that there is.
 * `RDS_CSI_SEED` repeats a run's choices.
 * @module
 */
import { assertEquals } from "@std/assert";
import type { Simulator } from "../../src/simulator/simulator.ts";
import { startAuditor } from "../lab/kubernetes/auditor.ts";
import { DRIVER, WORK } from "../lab/kubernetes/cluster.ts";
import * as objects from "../lab/kubernetes/objects.ts";
import { print } from "../lab/layer.ts";
import { assertSameVolumes, Dice, Load, removeAll } from "./load.ts";
import { scenarios } from "./scenarios.ts";
import { assertNothingLeft, attach, attached, bound, diskOf, makeClaim } from "./steps.ts";

const SEED = Number(Deno.env.get("RDS_CSI_SEED") ?? Date.now() % 1_000_000);
/** Milliseconds without any change after which something that could move is stuck. */
const STUCK = 20_000;

const scenario = scenarios({ settings: { "rds-read-deadline": "3s" } });

scenario("volumes in use and not in use grow while RouterOS is cut, hangs and reboots", async (cluster) => {
  const { simulator, kube } = cluster;
  const names = Array.from({ length: 8 }, (_, number) => `growing-${number}`);
  await Promise.all(names.map((name) => makeClaim(cluster, name)));
  const volumes = await Promise.all(names.map((name) => bound(cluster, name)));
  const used = volumes.slice(0, 4);
  await Promise.all(used.map(async ({ name }) => {
    await attach(cluster, `use-${name}`, { node: "node-a", volume: name });
    await attached(cluster, `use-${name}`);
  }));
  simulator.setLatency("disk set", 300);
  for (const when of ["middle", "after", "answer"] as const) simulator.faults.cut(when, "disk set");
  simulator.faults.hang("disk set");
  const sets = () => simulator.state().commands["disk set"] ?? 0;
  const enough = sets() + 3;
  const storage = "2560Mi";
  await Promise.all(
    names.map((name) =>
      kube.patch(objects.claims, { name, namespace: WORK }, { spec: { resources: { requests: { storage } } } })
    ),
  );
  await kube.wait("RouterOS to be told", () => sets() >= enough || undefined);
  await simulator.faults.reboot(1000);
  for (const { name, id } of volumes) {
    await kube.until(objects.persistentVolumes, { name }, ({ spec }) => spec.capacity.storage === storage);
    assertEquals(diskOf(cluster, id)?.["size"], 2560 * 1024 ** 2);
  }
  assertEquals(simulator.state().faults, 0, "not every fault happened");
  simulator.setLatency("disk set", 0);
  await assertSameVolumes(cluster);
  await removeAll(cluster);
  assertNothingLeft(cluster);
});

/** Something that goes wrong with RouterOS. */
interface Trouble {
  name: string;
  begin: () => void | Promise<void>;
}

/** Each kind at least once, in an order of chance. */
function troubles({ faults }: Simulator, dice: Dice): Trouble[] {
  const all: Trouble[] = ["add", "set", "remove", "print"].flatMap((verb) => {
    const when = dice.pick(["before", "middle", "after", "answer"] as const);
    const command = `disk ${verb}`;
    return [
      { name: `cut, ${when} '${command}'`, begin: () => faults.cut(when, command) },
      { name: `no answer to '${command}'`, begin: () => faults.hang(command) },
    ];
  });
  // In the middle of a fence.
  for (const argument of ["nvme-tcp-export=no", "nvme-tcp-server-nqn", "nvme-tcp-export=yes"]) {
    const action = dice.pick(["cut", "hang"] as const);
    const rule = { action, when: "middle", command: "disk set", argument } as const;
    all.push({ name: `${action} at ${argument}`, begin: () => faults.add(rule) });
  }
  for (let reboot = 0; reboot < 3; reboot++) {
    const milliseconds = Math.round(500 + dice.throw() * 5000);
    all.push({ name: `rebooted, for ${milliseconds} ms`, begin: () => faults.reboot(milliseconds) });
  }
  return all.map((trouble) => ({ trouble, at: dice.throw() })).sort((a, b) => a.at - b.at).map(({ trouble }) =>
    trouble
  );
}

scenario(
  "volumes are made, attached, moved by force, grown and deleted while RouterOS fails: none is lost",
  async (cluster) => {
    print(`RDS_CSI_SEED=${SEED}\n`);
    const { simulator, kube } = cluster;
    const dice = new Dice(SEED);
    await using auditor = await startAuditor(kube, { driver: DRIVER, simulator });
    for (const verb of ["add", "set", "remove"]) simulator.setLatency(`disk ${verb}`, 150);
    const load = new Load(cluster, { dice: dice.another(), movers: 3, migrators: 1, racers: 0, churners: 4 });
    for (const { name, begin } of troubles(simulator, dice)) {
      await load.further(3);
      await begin();
      await kube.wait(`RouterOS to fail (${name})`, () => simulator.state().faults === 0 || undefined);
      print(`${name}; ${load.steps} steps done\n`);
      await auditor.assertSound();
    }
    await load.further(8);
    await load.stop();
    await auditor.assertSound();
    await auditor.assertNothingStuck(STUCK);
    await assertSameVolumes(cluster);
    await removeAll(cluster);
    assertNothingLeft(cluster);
  },
);
