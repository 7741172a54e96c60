import { assertEquals } from "@std/assert";
import fc from "fast-check";
import { TestNode } from "../../tests/nvme/node.ts";
import { whyNoStandIn } from "../../tests/nvme/stand_in.ts";
import { deviceNodeAt } from "../mounts/device_node.ts";
import { DriverError } from "../runtime/errors.ts";
import { publish, unpublish } from "./publish.ts";
import { stage } from "./stage.ts";
import { unstage } from "./unstage.ts";

const targets = ["one", "two"] as const;
type Step = "stage" | "unstage" | "restart" | `${"publish" | "unpublish"} ${typeof targets[number]}`;
const steps: Step[] = [
  "stage",
  "stage",
  "unstage",
  "restart",
  ...targets.flatMap((target): Step[] => [
    `publish ${target}`,
    `unpublish ${target}`,
  ]),
];

/** What must be true after a step: whether it is staged, and where it is published. */
interface Model {
  staged: boolean;
  published: Set<string>;
}

/** Takes a step in the model. `false`: it must be refused and change nothing. */
function expected(model: Model, step: Step): boolean {
  const [what, target = ""] = step.split(" ");
  if (what === "stage") model.staged = true;
  if (what === "publish" && !model.staged) return false;
  if (what === "publish") model.published.add(target);
  if (what === "unpublish") model.published.delete(target);
  if (what === "unstage" && model.published.size > 0) return false;
  if (what === "unstage") model.staged = false;
  return true;
}

async function precious(folder: string): Promise<true> {
  await Deno.writeTextFile(`${folder}/file`, "precious");
  return true;
}

Deno.test({
  name: "any order of stage, publish, unpublish, unstage and restarts leaves what a model says, and the data",
  ignore: await whyNoStandIn() !== undefined,
  async fn() {
    await using node = await TestNode.start();
    const history = fc.tuple(
      fc.constantFrom("ext4" as const, "block" as const),
      fc.array(fc.constantFrom(...steps), {
        minLength: 10,
        maxLength: 15,
      }),
    );
    await fc.assert(
      fc.asyncProperty(history, async ([kind, order]) => {
        const volume = await node.volume(kind, 64 * 2 ** 20);
        let written = false;
        const model: Model = { staged: false, published: new Set() };
        const take: Record<string, (target: string) => Promise<void>> = {
          stage: () => stage(node.parts, volume),
          unstage: () => unstage(node.parts, volume),
          publish: (target) => publish(node.parts, node.at(volume, target)),
          unpublish: (target) => unpublish(node.parts, node.at(volume, target)),
          restart: () => Promise.resolve(node.restart()),
        };
        const isThere = async (target: string) =>
          kind === "block"
            ? await deviceNodeAt(node.path(target)) !== undefined
            : await node.mountsAt(node.path(target)) === 1;
        for (const step of [...order, "unpublish one", "unpublish two", "unstage"] as Step[]) {
          const [what = "", target = ""] = step.split(" ");
          const done = await take[what]?.(target).then(() => true, (error) => {
            if (error instanceof DriverError) return false;
            throw error;
          });
          assertEquals(done, expected(model, step), step);
          assertEquals(await node.sessions(volume), Number(model.staged), step);
          for (const each of targets) assertEquals(await isThere(each), model.published.has(each), `${step}: ${each}`);
          const mounts = await node.mountsAt(volume.stagingPath);
          assertEquals(mounts, Number(model.staged && kind === "ext4"), step);
          if (mounts) written ||= await precious(volume.stagingPath);
          if (mounts) assertEquals(await Deno.readTextFile(`${volume.stagingPath}/file`), "precious", step);
        }
      }),
      { numRuns: 10, endOnFailure: true },
    );
  },
});
