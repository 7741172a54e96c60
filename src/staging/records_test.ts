import { assertEquals, assertRejects } from "@std/assert";
import { FailedPrecondition } from "../runtime/errors.ts";
import { Records, type StagingRecord } from "./records.ts";

const volumeId = `pvc-${"a".repeat(28)}`;
const record: StagingRecord = {
  volumeId,
  nqn: "nqn.x:pvc-a",
  kind: "block",
  majorMinor: "259:1",
  stagingPath: "/staging",
  targets: ["/target"],
  formerNumbers: ["259:0"],
  size: 1,
  mount: { fsType: "xfs", options: ["noatime"] },
  remounting: "/staging",
};

Deno.test("Records gives back what was written, and nothing once it was removed", async () => {
  const folder = await Deno.makeTempDir();
  const records = new Records(`${folder}/volumes`);
  assertEquals([await records.read(volumeId), await records.volumeIds()], [undefined, []]);
  await records.write(record);
  await records.write({ ...record, mkfs: "ext4" });
  assertEquals(await records.read(volumeId), { ...record, mkfs: "ext4" });
  assertEquals(await records.volumeIds(), [volumeId]);
  assertEquals(Array.from(Deno.readDirSync(`${folder}/volumes`)).map((entry) => entry.name), [`${volumeId}.json`]);
  await records.remove(volumeId);
  await records.remove(volumeId);
  assertEquals([await records.read(volumeId), await records.volumeIds()], [undefined, []]);
  await Deno.remove(folder, { recursive: true });
});

Deno.test("Records.read() takes no broken record for none, and says which file; the next one replaces it", async () => {
  const folder = await Deno.makeTempDir();
  const records = new Records(folder);
  const broken = ["", "{", "null", "[]", '{"volumeId":1}', JSON.stringify({ ...record, volumeId: "pvc-other" })];
  const wrong = [
    { targets: "x" },
    { mkfs: 1 },
    { readOnlyTarget: [] },
    { kind: "other" },
    { remounting: 1 },
    {
      formerNumbers: "259:1",
    },
    { size: "1" },
    { mount: "xfs" },
    { mount: { fsType: "xfs", options: [1] } },
    { unstaging: "yes" },
  ];
  const path = `${folder}/${volumeId}.json`;
  for (const text of [...broken, ...wrong.map((change) => JSON.stringify({ ...record, ...change }))]) {
    await Deno.writeTextFile(path, text);
    await assertRejects(() => records.read(volumeId), FailedPrecondition, path);
  }
  await Deno.remove(path);
  await Deno.mkdir(path); // A file that cannot be read.
  await assertRejects(() => records.read(volumeId), FailedPrecondition, "may remove the file");
  await Deno.remove(path);
  await records.write(record);
  assertEquals(await records.read(volumeId), record);
  await Deno.remove(folder, { recursive: true });
});

Deno.test("Records.read() gives no number and no mount of an earlier start of the machine", async () => {
  const folder = await Deno.makeTempDir();
  let now: string | undefined = "boot-1";
  const records = new Records(folder, { boot: () => Promise.resolve(now) });
  const { formerNumbers: _numbers, remounting: _remounting, ...kept } = record;
  const after: StagingRecord = { ...kept, majorMinor: "", rebooted: true };
  await records.write({ ...record, readOnlyTarget: "/target" });
  now = undefined; // Not known: no reason to drop anything.
  assertEquals((await records.read(volumeId))?.majorMinor, "259:1");
  now = "boot-2";
  assertEquals(await records.read(volumeId), after);
  await records.write({ ...after, unstaging: true });
  assertEquals(await records.read(volumeId), { ...after, unstaging: true });
  await records.write(record);
  assertEquals(await records.read(volumeId), record);
  await Deno.remove(folder, { recursive: true });
});

Deno.test("Records makes no path of an id that is none", async () => {
  const records = new Records("/nonexistent");
  for (const id of ["", "../x", "pvc-../../etc/passwd"]) {
    await assertRejects(() => records.read(id), Error, "no volume id");
  }
});
