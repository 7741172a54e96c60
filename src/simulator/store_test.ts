import { assertEquals } from "@std/assert";
import { Pool } from "./pool.ts";
import { guessDefaults } from "./simulator.ts";
import { type Decided, Disks } from "./store.ts";

/** What the exporter is told, in order, while `work` changes an exported disk. */
async function told(work: (disks: Disks) => void, guesses: Partial<Decided> = {}): Promise<string[]> {
  const folder = await Deno.makeTempDir();
  const events: string[] = [];
  const exporter = {
    show: ({ nqn }: { nqn: string }) => void events.push(`show ${nqn}`),
    hide: (nqn: string) => void events.push(`hide ${nqn}`),
  };
  try {
    const pool = new Pool({ folder, mountPoint: "pool", size: 2 ** 30, preallocated: false });
    const disks = new Disks({ pool, poolFolder: folder, exporter, guesses: { ...guessDefaults, ...guesses } });
    disks.add({ slot: "a", file: "pool/a.img", size: 2 ** 20, nqn: "nqn.x:a", exported: true });
    disks.export(true);
    events.length = 0;
    work(disks);
    return events;
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

Deno.test("Disks.set() tells the exporter of the end of the old export before the begin of the new one", async () => {
  const apart = await told((disks) => {
    for (const change of [{ exported: false }, { nqn: "nqn.x:b" }, { exported: true }]) {
      for (const row of [...disks]) disks.set(row, change);
    }
  });
  assertEquals(apart, ["hide nqn.x:a", "show nqn.x:b"]);
  const atOnce = await told((disks) => {
    for (const row of [...disks]) disks.set(row, { nqn: "nqn.x:b" });
  }, { renamesExports: true });
  assertEquals(atOnce, ["hide nqn.x:a", "show nqn.x:b"]);
});

Deno.test("Disks.remove() and the power's end hide what was shown", async () => {
  assertEquals(await told((disks) => [...disks].forEach((row) => disks.remove(row))), ["hide nqn.x:a"]);
  assertEquals(await told((disks) => disks.export(false)), ["hide nqn.x:a"]);
});
