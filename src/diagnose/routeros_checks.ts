import type { Pool } from "../rds/decode.ts";
import { ros } from "../rds/script.ts";
import { checkServer, warningsFor } from "../rds/server.ts";
import { FailedPrecondition, messageOf, Unreachable } from "../runtime/errors.ts";
import { left } from "../volumes/capacity.ts";
import { poolOf } from "../volumes/path.ts";
import { type Check, type Finding, ok } from "./check.ts";
import { basesOf, type ControllerWorld } from "./controller_world.ts";
import { found } from "./meanings.ts";

/** RouterOS itself: whether the driver can work with it. Nothing of it is changed. */
export function routerOsChecks(world: ControllerWorld): Check[] {
  return [
    { name: "routeros", about: "login at RouterOS, and its host key", run: (signal) => login(world, signal) },
    { name: "version", about: "RouterOS' version and packages", run: (signal) => version(world, signal) },
    { name: "policies", about: "what the user may do on RouterOS", run: (signal) => policies(world, signal) },
    { name: "pools", about: "the pools of volumes, and their room", run: (signal) => pools(world, signal) },
  ];
}

async function login(world: ControllerWorld, signal: AbortSignal): Promise<Finding[]> {
  const { rdsAddress, rdsPort, rdsUser, rdsInsecureSkipVerify } = world.config;
  const where = `${rdsUser}@${rdsAddress}:${rdsPort}`;
  try {
    await world.login(signal);
  } catch (error) {
    const message = messageOf(error);
    if (error instanceof Unreachable) return [found("routeros-silent", message)];
    if (!(error instanceof FailedPrecondition) || !/ key/.test(message)) throw error;
    return [found(/private key/.test(message) ? "login-unusable" : "host-key-refused", message)];
  }
  if (rdsInsecureSkipVerify) return [found("host-key-unchecked", `${where}: any host key is taken`)];
  return [ok(`${where}, with the pinned host key`)];
}

async function version(world: ControllerWorld, signal: AbortSignal): Promise<Finding[]> {
  const script = ros`:put [/system/resource/get version]; :put [:len [/system/package/find where name="rose-storage"]]`;
  const text = await world.run(script, "tell its version", signal);
  const [said = "", packages] = text.split("\n");
  try {
    await checkServer({ exec: () => Promise.resolve(text), closed: Promise.resolve(), close() {} }, signal);
  } catch (error) {
    if (!(error instanceof FailedPrecondition)) throw error;
    return [found("routeros-old", messageOf(error))];
  }
  const warnings = warningsFor(said, packages);
  return warnings.length > 0 ? warnings.map((each) => found("routeros-warning", each)) : [ok(`RouterOS ${said}`)];
}

/** A change of no row: refused where the policy is missing, and without effect where it is there. */
async function policies(world: ControllerWorld, signal: AbortSignal): Promise<Finding[]> {
  const nobody = `rds-csi-nobody-${crypto.randomUUID().slice(0, 8)}`;
  const tries = {
    read: ros`:put [:len [/disk/find where slot=${nobody}]]`,
    write: ros`/disk/set [/disk/find where slot=${nobody}] comment="rds-csi"`,
  };
  const findings: Finding[] = [];
  for (const [policy, script] of Object.entries(tries)) {
    try {
      await world.run(script, `do what needs the policy ${policy}`, signal);
    } catch (error) {
      if (!(error instanceof FailedPrecondition) || !/permission|not allowed/.test(messageOf(error))) throw error;
      findings.push(found("policy-missing", `${world.config.rdsUser} lacks '${policy}': ${messageOf(error)}`));
    }
  }
  return findings.length > 0 ? findings : [ok(`${world.config.rdsUser} may read and write`)];
}

async function pools(world: ControllerWorld, signal: AbortSignal): Promise<Finding[]> {
  const disks = await world.disks(signal);
  const names = [...new Set(basesOf(world.config).map(poolOf))];
  return (await Promise.all(names.map(async (name) => {
    try {
      return ofPool(name, await disks.pool(name, signal), world);
    } catch (error) {
      if (!(error instanceof FailedPrecondition) || !/shows no disk/.test(messageOf(error))) throw error;
      return [found("pool-missing", messageOf(error))];
    }
  }))).flat();
}

const GIB = 1n << 30n;

function ofPool(name: string, pool: Pool, { config }: ControllerWorld): Finding[] {
  const rest = left(pool, { ratio: config.capacityRatio, reserve: config.capacityReserve });
  const figures = `${name}: ${gib(pool.size)} GiB, ${gib(pool.free)} free, ${gib(pool.promised)} promised, ` +
    `${gib(rest)} left to promise`;
  if (pool.free * 20n < pool.size) return [found("pool-full", figures)];
  return rest < GIB ? [found("pool-promised", figures)] : [ok(figures)];
}

function gib(bytes: bigint): string {
  return (Number(bytes) / Number(GIB)).toFixed(1);
}
