import type { MessageInitShape } from "@bufbuild/protobuf";
import { VolumeCapability_AccessMode_Mode as Mode, type VolumeCapabilitySchema } from "../../proto/gen/csi_pb.ts";
import { throwIfAborted } from "../../src/runtime/deadline.ts";
import { digits, milliseconds, percentile, progress, table } from "./figures.ts";
import type { Laboratory } from "./laboratory.ts";

/** What a volume is used as, by one node. */
export function capability(kind: "ext4" | "xfs" | "block"): MessageInitShape<typeof VolumeCapabilitySchema> {
  const accessMode = { mode: Mode.SINGLE_NODE_WRITER };
  if (kind === "block") return { accessMode, accessType: { case: "block", value: {} } };
  return { accessMode, accessType: { case: "mount", value: { fsType: kind } } };
}

/** A request for a volume of 1 GiB. */
export function volumeNamed(name: string) {
  return { name, capacityRange: { requiredBytes: 1n << 30n }, volumeCapabilities: [capability("ext4")] };
}

/** Like a device, by what was seen of some: add 0.4 to 5 s, print 50 to 100 ms, remove 0.5 to 1 s. */
const device = { add: 400, print: 50, remove: 500 };
const settings = [
  { name: "0", latency: {}, rounds: [{ atOnce: 1, volumes: 200 }, { atOnce: 16, volumes: 480 }] },
  { name: "device", latency: device, rounds: [{ atOnce: 1, volumes: 10 }, { atOnce: 16, volumes: 64 }] },
];

/** Creates, reads and deletes, one at a time and many at once, without latency and like a device. */
export async function calls(lab: Laboratory): Promise<string> {
  const rows = [
    ["simulator", "call", "at once", "calls", "SSH lines", "calls/s", "× one at a time", "p50", "p99", "driver's own"],
  ];
  await lab.csi.getCapacity({}); // Read once a minute: what it costs belongs to no single call.
  for (const { name, latency, rounds } of settings) {
    await lab.latency(latency);
    const alone = new Map<string, number>();
    for (const { atOnce, volumes } of rounds) {
      const count = lab.quick ? Math.max(atOnce, volumes >> 3) : volumes;
      progress(`  ${name === "0" ? "no latency" : "like a device"}: ${count} volumes, ${atOnce} at once`);
      for (const round of await lives(lab, { count, atOnce })) {
        const { call, durations, lines, perSecond, own } = round;
        const ratio = perSecond / (alone.get(call) ?? perSecond);
        alone.set(call, alone.get(call) ?? perSecond);
        const [p50, p99] = [percentile(durations, 0.5), percentile(durations, 0.99)].map(milliseconds);
        const counts = [atOnce, durations.length, lines].map(String);
        const shown = [...counts, digits(perSecond), digits(ratio), p50 ?? "", p99 ?? ""];
        rows.push([name, call, ...shown, atOnce === 1 ? milliseconds(own) : "–"]);
      }
    }
  }
  await lab.latency({});
  const note = "`device`: add 400 ms, print 50 ms, each remove 500 ms (a delete has two: row and file). At most four " +
    "scripts run at once on RouterOS. `0`: with many at once the simulator, which searches its rows one by one, is the " +
    "slower side. p99 of fewer than 100 calls is the slowest of them. Driver's own: the mean time of a call that was not " +
    "spent waiting for RouterOS' answer, gRPC and the client included.";
  return table("Creates, reads and deletes", rows, { left: 2, note });
}

/** A hundred reads that come together: how many queries they become. */
export async function mergedReads(lab: Laboratory): Promise<string> {
  progress("  100 reads at once");
  const { ids } = await create(lab, { count: 100, atOnce: 16 });
  await lab.latency({ print: 50 });
  const rows = [["ControllerGetVolume, print takes 50 ms", "SSH lines", "all answered after", "p50"]];
  for (const [what, names, atOnce] of [["20, one by one", ids.slice(0, 20), 1], ["100 at once", ids, 100]] as const) {
    const { durations, lines, seconds } = await timed(lab, { names, atOnce, call: read });
    rows.push([what, String(lines), milliseconds(seconds * 1000), milliseconds(percentile(durations, 0.5))]);
  }
  await lab.latency({});
  await timed(lab, { names: ids, atOnce: 16, call: remove });
  return table("Reads that wait merge", rows);
}

interface Round {
  /** Of each call, in milliseconds. */
  durations: number[];
  lines: number;
  seconds: number;
  perSecond: number;
  /** Mean milliseconds of a call outside of RouterOS. */
  own: number;
}

interface Count {
  /** Of volumes. */
  count: number;
  atOnce: number;
}

async function lives(lab: Laboratory, { count, atOnce }: Count): Promise<(Round & { call: string })[]> {
  const { ids, ...made } = await create(lab, { count, atOnce });
  return [
    { call: "create", ...made },
    { call: "read", ...await timed(lab, { names: [...ids, ...ids], atOnce, call: read }) },
    { call: "delete", ...await timed(lab, { names: ids, atOnce, call: remove }) },
  ];
}

async function create(lab: Laboratory, { count, atOnce }: Count): Promise<Round & { ids: string[] }> {
  const ids: string[] = [];
  const names = Array.from({ length: count }, (_, number) => `bench-${number}`);
  const call: Call = async (lab, name) =>
    ids.push((await lab.csi.createVolume(volumeNamed(name), lab)).volume?.volumeId ?? "");
  return { ...await timed(lab, { names, atOnce, call }), ids };
}

type Call = (lab: Laboratory, name: string) => Promise<unknown>;
const read: Call = (lab, volumeId) => lab.csi.controllerGetVolume({ volumeId }, lab);
const remove: Call = (lab, volumeId) => lab.csi.deleteVolume({ volumeId }, lab);

/** Makes a call for each name, so many at once, and takes the time of each. */
async function timed(
  lab: Laboratory,
  { names, atOnce, call }: { names: readonly string[]; atOnce: number; call: Call },
): Promise<Round> {
  const rest = [...names];
  const durations: number[] = [];
  async function work(): Promise<void> {
    for (let name = rest.shift(); name !== undefined; name = rest.shift()) {
      throwIfAborted(lab.signal);
      const began = performance.now();
      await call(lab, name);
      durations.push(performance.now() - began);
    }
  }
  const before = await lab.sent();
  const began = performance.now();
  await Promise.all(Array.from({ length: atOnce }, work));
  const seconds = (performance.now() - began) / 1000;
  const after = await lab.sent();
  const inCalls = durations.reduce((sum, each) => sum + each, 0);
  return {
    durations,
    seconds,
    lines: after.lines - before.lines,
    perSecond: durations.length / seconds,
    own: (inCalls - (after.waited - before.waited)) / durations.length,
  };
}
