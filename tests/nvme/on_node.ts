import { TestNode } from "./node.ts";
import { whyNoStandIn } from "./stand_in.ts";

const ignore = await whyNoStandIn() !== undefined;

/** Registers a test that has something of its own, which is taken apart after it; left out on machines that cannot stand in for NVMe. */
export function testWith<T extends AsyncDisposable>(
  start: () => Promise<T>,
): (name: string, run: (it: T) => Promise<void>) => void {
  return (name, run) =>
    Deno.test({
      name,
      ignore,
      async fn() {
        await using it = await start();
        await run(it);
      },
    });
}

/** A test on a node of its own. */
export const onNode = testWith(() => TestNode.start());
