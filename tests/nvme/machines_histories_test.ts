/**
 * Random histories with an agent that is killed in the middle of calls; see `machines_model.ts`. `RDS_CSI_HISTORIES` makes it
 * longer, `RDS_CSI_SEED` runs those that failed.
 * @module
 */
import { print } from "../lab/layer.ts";
import { Histories } from "./machines_model.ts";
import { scenarios } from "./machines_steps.ts";

const given = Deno.env.get("RDS_CSI_SEED");
const usual = given !== undefined ? 1 : Deno.env.get("RDS_CSI_SOAK") ? 100 : 20;
const HISTORIES = Number(Deno.env.get("RDS_CSI_HISTORIES") ?? usual);

const scenario = scenarios();

scenario(
  "any order of calls and kills ends, when the calls are repeated, as a model says, and keeps all data",
  async (lab) => {
    const first = Number(given ?? Math.floor(Math.random() * 2 ** 31));
    print(`histories from RDS_CSI_SEED=${first} on\n`);
    const seeds = Array.from({ length: Math.ceil(HISTORIES / Histories.each) }, (_, at) => first + at);
    // One after the other on each node. When one fails, none is begun any more.
    const lanes = await Promise.allSettled(lab.nodes.map(async (node) => {
      for (let seed = seeds.shift(); seed !== undefined; seed = seeds.shift()) {
        const histories = new Histories(lab, node, seed);
        await histories.run().catch((error) => {
          seeds.length = 0;
          throw error;
        });
        print(`${seed} on ${node.name}: ${histories.seconds} s\n`);
      }
    }));
    for (const lane of lanes) if (lane.status === "rejected") throw lane.reason;
  },
);
