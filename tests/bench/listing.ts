import { nqnOf } from "../../src/nvme/nqn.ts";
import { STATE_FOLDER } from "../../src/simulator/pool.ts";
import { RowFiles } from "../../src/simulator/row_files.ts";
import type { DiskRow } from "../../src/simulator/store.ts";
import { PREFIX } from "../lab/driver.ts";
import { volumeNamed } from "./calls.ts";
import { digits, median, milliseconds, progress, table } from "./figures.ts";
import { type Laboratory, laboratory, type Scope } from "./laboratory.ts";
import { memoryOf } from "./starting.ts";

/** ListVolumes, and what else depends on how many volumes there are. */
export async function listing(folder: string, scope: Scope): Promise<string> {
  const count = scope.quick ? 1000 : 10_000;
  const times = scope.quick ? 2 : 5;
  await Deno.mkdir(folder);
  plant(`${folder}/pool`, count);
  await using lab = await laboratory(folder, scope);
  const { csi, controller } = lab;
  await csi.controllerGetVolume({ volumeId: idOf(1) }, scope); // Waits until RouterOS is connected.
  const before = await memoryOf(controller.pid);

  const rows = [["call", "SSH lines", "median", "of it waiting for RouterOS"]];
  async function measure(call: string, work: (turn: number) => Promise<unknown>): Promise<void> {
    progress(`  ${call}`);
    const sent = await lab.sent();
    const durations: number[] = [];
    for (let turn = 0; turn < times; turn++) {
      scope.signal.throwIfAborted();
      const began = performance.now();
      await work(turn);
      durations.push(performance.now() - began);
    }
    const { lines, waited } = await lab.sent();
    const [each, wait] = [(lines - sent.lines) / times, (waited - sent.waited) / times];
    rows.push([call, digits(each), milliseconds(median(durations)), milliseconds(wait)]);
  }
  const pages: number[] = [];
  await measure("all at once", async () => expect(count, (await csi.listVolumes({}, scope)).entries.length));
  await measure("all, 100 a page", async () => expect(count, await paged(lab, scope, pages)));
  rows.push(["a page after the first", "0", milliseconds(median(pages)), milliseconds(0)]);
  await measure("the first page alone", () => csi.listVolumes({ maxEntries: 100 }, scope));
  await measure("GetCapacity", () => csi.getCapacity({}, scope));
  await measure("CreateVolume", (turn) => csi.createVolume(volumeNamed(`listing-${turn}`), scope));
  const after = await memoryOf(controller.pid);
  const note =
    `Waiting for RouterOS is a mean of ${times} calls. The simulator searches its rows one by one; how long a ` +
    `device takes is not known. Resident memory of the controller: ${before.resident} before, ${after.resident} after.`;
  return table(`With ${count.toLocaleString("en")} volumes`, rows, { note });
}

async function paged({ csi }: Laboratory, scope: Scope, pages: number[]): Promise<number> {
  let seen = 0;
  for (let startingToken = "";;) {
    const began = performance.now();
    const { entries, nextToken } = await csi.listVolumes({ maxEntries: 100, startingToken }, scope);
    if (startingToken !== "") pages.push(performance.now() - began);
    seen += entries.length;
    if (nextToken === "") return seen;
    startingToken = nextToken;
  }
}

function expect(count: number, seen: number): void {
  if (seen !== count) throw new Error(`${seen} volumes were listed and there are ${count}`);
}

/** Writes what a simulator would have kept of so many volumes of 1 GiB: their rows and sparse files. */
export function plant(pool: string, count: number): void {
  progress(`  planting ${count} volumes`);
  const rows = new RowFiles<DiskRow>(`${pool}/${STATE_FOLDER}/disks`);
  Deno.mkdirSync(`${pool}/metal-csi`);
  for (let id = 1; id <= count; id++) {
    const slot = idOf(id);
    using image = Deno.createSync(`${pool}/metal-csi/${slot}.img`);
    image.truncateSync(2 ** 30);
    rows.write({
      id,
      type: "file",
      slot,
      comment: "rds-csi",
      file: `storage-pool/metal-csi/${slot}.img`,
      size: 2 ** 30,
      mountFilesystem: false,
      mountReadOnly: false,
      exported: true,
      port: 4420,
      nqn: nqnOf(PREFIX, slot),
      allowHost: "",
      exportedAt: 0,
      exportedSize: 2 ** 30,
    });
  }
}

function idOf(number: number): string {
  return `pvc-${number.toString(16).padStart(28, "0")}`;
}
