import { mountsOf, refuseStorm, resolved } from "../mounts/mountinfo.ts";
import { numbersOf } from "../nvme/sysfs.ts";
import { FailedPrecondition, messageOf } from "../runtime/errors.ts";
import { type ProblemKind, problemsOf, type Sight } from "../staging/condition.ts";
import { type Check, type Finding, ok, unknown } from "./check.ts";
import { type Code, found } from "./meanings.ts";
import type { NodeWorld } from "./node_world.ts";

/** What the driver's own look shows of the volumes that are here. No device is touched. */
export function volumeChecks(world: NodeWorld): Check[] {
  return [
    { name: "sessions", about: "NVMe sessions of volumes, by state", run: (signal) => sessions(world, signal) },
    { name: "mounts", about: "stale and doubled mounts, stale device nodes", run: (signal) => mounts(world, signal) },
    { name: "filesystems", about: "filesystems that the kernel has stopped", run: (s) => filesystems(world, s) },
    { name: "records", about: "what is noted, against sysfs and mountinfo", run: (signal) => records(world, signal) },
  ];
}

/** The driver's own judgement of all volumes, those kinds of it. */
async function judged(
  world: NodeWorld,
  codes: Partial<Record<ProblemKind, Code>>,
  signal: AbortSignal,
): Promise<Finding[]> {
  const { sights } = await world.look(signal);
  return [...sights].flatMap(([volumeId, sight]) =>
    problemsOf(sight).flatMap(({ kind, message }) => {
      const code = codes[kind];
      return code ? [found(code, `${volumeId}: ${message}`)] : [];
    })
  );
}

async function sessions(world: NodeWorld, signal: AbortSignal): Promise<Finding[]> {
  const { sessions } = await world.look(signal);
  const bad = await judged(world, { session_not_live: "session-not-live", session_gone: "session-gone" }, signal);
  if (bad.length > 0) return bad;
  return [ok(sessions.length === 0 ? "none" : `${sessions.length}, all live`)];
}

async function filesystems(world: NodeWorld, signal: AbortSignal): Promise<Finding[]> {
  const bad = await judged(world, { filesystem_stopped: "filesystem-stopped" }, signal);
  return bad.length > 0 ? bad : [ok("none is stopped")];
}

async function mounts(world: NodeWorld, signal: AbortSignal): Promise<Finding[]> {
  const kinds = { stale_mount: "mount-stale", stale_node: "mount-stale", not_mounted: "mount-stale" } as const;
  const findings = await judged(world, kinds, signal);
  const { sights } = await world.look(signal);
  let count = 0;
  for (const [volumeId, sight] of sights) {
    for (const number of numbersIn(sight)) {
      const own = mountsOf(sight.mounts, number);
      count += own.length;
      for (const [target, { length }] of Map.groupBy(own, (mount) => mount.target)) {
        if (length > 1) findings.push(found("mount-doubled", `${volumeId}: ${target} is mounted ${length} times over`));
      }
      const storm = stormOf(sight, number);
      if (storm !== undefined) findings.push(found("mount-storm", `${volumeId}: ${storm}`));
    }
  }
  return findings.length > 0 ? findings : [ok(`${count} of volumes' devices`)];
}

function numbersIn({ sessions }: Sight): string[] {
  return [...new Set(sessions.flatMap(({ namespaces }) => namespaces.flatMap(numbersOf)))];
}

function stormOf({ mounts }: Sight, number: string): string | undefined {
  try {
    refuseStorm(mounts, number);
    return undefined;
  } catch (error) {
    return messageOf(error);
  }
}

async function records(world: NodeWorld, signal: AbortSignal): Promise<Finding[]> {
  const parts = world.parts();
  const ids = await parts.records.volumeIds();
  const findings: Finding[] = [];
  for (const volumeId of ids) {
    await parts.records.read(volumeId).catch((error) => {
      if (!(error instanceof FailedPrecondition)) throw error;
      findings.push(found("record-unusable", messageOf(error)));
    });
  }
  const { sights } = await world.look(signal);
  for (const [volumeId, sight] of sights) {
    findings.push(...unfinished(volumeId, sight), ...await differences(volumeId, sight));
  }
  return findings.length > 0 ? findings : [ok(`${ids.length}, as sysfs and mountinfo have it`)];
}

function unfinished(volumeId: string, { record }: Sight): Finding[] {
  if (!record || record.rebooted) return [];
  const begun = [
    record.unstaging && "its unstaging was begun and not ended",
    record.mkfs && "a filesystem was being made, and that was not ended",
    record.remounting && "it was being mounted anew, and that was not ended",
    record.readOnlyTarget && `${record.readOnlyTarget} was to become read-only, and that was not ended`,
  ].filter((each) => typeof each === "string");
  return begun.map((each) => found("record-unfinished", `${volumeId}: ${each}`));
}

/** Of what is being changed just now, or was staged before the machine's last start, nothing is concluded. */
async function differences(volumeId: string, { record, sessions, mounts }: Sight): Promise<Finding[]> {
  if (!record || record.rebooted || record.unstaging || record.mkfs || record.remounting) return [];
  if (sessions.length === 0) return [];
  const findings: Finding[] = [];
  const [session, ...others] = sessions;
  if (others.length > 0) {
    const nqns = sessions.map(({ nqn }) => nqn).join(" and ");
    findings.push(found("record-differs", `${volumeId}: it has several sessions: ${nqns}`));
  } else if (session?.nqn !== record.nqn) {
    findings.push(found("record-differs", `${volumeId}: ${record.nqn} is noted and ${session?.nqn} is connected`));
  }
  const numbers = numbersIn({ sessions } as Sight);
  if (numbers.length > 0 && record.majorMinor !== "" && !numbers.includes(record.majorMinor)) {
    const now = numbers.join(", ");
    findings.push(found("record-differs", `${volumeId}: device ${record.majorMinor} is noted, and it is ${now} now`));
  }
  if (record.kind === "filesystem") {
    const path = await resolved(record.stagingPath);
    const isMounted = mounts.some((mount) => mount.target === path);
    if (!isMounted) {
      findings.push(
        found("record-differs", `${volumeId}: ${record.stagingPath} is noted and nothing is mounted there`),
      );
    }
  }
  return findings;
}

/** Milliseconds for a server's port to answer. */
const answerLimit = 2000;

/** The ports that the volumes here are reached at. */
export function targetCheck(world: NodeWorld): Check {
  return {
    name: "targets",
    about: "whether the storage servers' NVMe/TCP ports answer from here",
    async run(signal) {
      const { sights } = await world.look(signal);
      const targets = [...sights.values()].flatMap(({ record }) => record?.target ?? []);
      const places = [...new Set(targets.map(({ address, port }) => JSON.stringify([address, port])))];
      if (places.length === 0) return [ok("no volume is noted here")];
      const findings = await Promise.all(places.map((place) => {
        const [hostname, port] = JSON.parse(place) as [string, number];
        return answers({ hostname, port }, signal);
      }));
      return findings;
    },
  };
}

/** Whether a TCP port takes connections. */
export async function answers(
  { hostname, port }: { hostname: string; port: number },
  signal: AbortSignal,
): Promise<Finding> {
  const where = `${hostname}:${port}`;
  const limit = AbortSignal.any([signal, AbortSignal.timeout(answerLimit)]);
  try {
    (await Deno.connect({ hostname, port, signal: limit })).close();
    return ok(`${where} answers`);
  } catch (error) {
    if (signal.aborted) return unknown(`${where}: not looked at to the end`);
    const why = limit.aborted ? `no answer within ${answerLimit / 1000} s` : messageOf(error);
    return found("target-silent", `${where} does not answer: ${why}`);
  }
}
