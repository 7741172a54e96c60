import { Identity } from "../../proto/gen/csi_pb.ts";
import { connect } from "../csi/rpc.ts";
import { abortable } from "../runtime/deadline.ts";
import { messageOf, Unreachable } from "../runtime/errors.ts";
import { type Check, type Finding, ok } from "./check.ts";
import { addressOf, fetchText, valueOf } from "./exposition.ts";
import { found } from "./meanings.ts";
import type { NodeWorld } from "./node_world.ts";

/** The driver that runs on the node. */
export function agentChecks(world: NodeWorld): Check[] {
  const { config, version } = world;
  const about = "the CSI socket: who answers there";
  return [
    { name: "socket", about, run: (signal) => socket({ ...config, version }, signal) },
    { name: "registration", about: "whether the kubelet has the driver", run: (signal) => registration(world, signal) },
    { name: "agent", about: "the driver's /metrics and /readyz", run: (signal) => agent(world, signal) },
    { name: "breakers", about: "circuit breakers that are open", run: (signal) => breakers(world, signal) },
    { name: "children", about: "programs that could not be ended", run: (signal) => children(world, signal) },
  ];
}

/** Milliseconds for an answer on the socket. */
const answerLimit = 5000;

/** Who serves a CSI socket, the same for node and controller. */
export async function socket(
  { endpoint, driverName, version }: { endpoint: string; driverName: string; version: string },
  signal: AbortSignal,
): Promise<Finding[]> {
  try {
    using client = connect(Identity, endpoint);
    const { name, vendorVersion } = await client.getPluginInfo({}, { signal, deadline: answerLimit });
    const answers = `${name} ${vendorVersion} answers on ${endpoint}`;
    if (name !== driverName) return [found("socket-foreign", `${answers}, not ${driverName}`)];
    if (vendorVersion === version) return [ok(answers)];
    return [{ ...found("socket-foreign", `${answers}, and this is ${version}`), status: "warning" }];
  } catch (error) {
    return [found("socket-silent", `there is no answer on ${endpoint}: ${messageOf(error)}`)];
  }
}

/** The driver itself knows whether the kubelet has taken it; where a sidecar registers it, the kubelet's first call tells. */
async function registration(world: NodeWorld, signal: AbortSignal): Promise<Finding[]> {
  const { kubeletDir, driverName, registrationDir, standalone } = world.config;
  const samples = await world.metrics(signal).catch(() => []);
  const said = valueOf(samples, "kubelet_registered");
  if (said === 1) return [ok("the kubelet has the driver on its list")];
  if (said === 0) return [found("not-registered", "the kubelet does not have the driver on its list, or refused it")];
  if (standalone) return [ok("there is no kubelet (--standalone)")];
  const asked = samples.some(({ name, labels }) =>
    name === "rds_csi_grpc_calls_total" && labels.method?.endsWith("NodeGetInfo") && labels.code === "OK"
  );
  if (asked) return [ok("the kubelet has asked the driver who it is")];
  const path = `${registrationDir ?? `${kubeletDir}/plugins_registry`}/${driverName}-reg.sock`;
  const connecting = Deno.connect({ transport: "unix", path });
  try {
    (await abortable(connecting, signal)).close();
    return [ok(`something is there to register it: ${path}`)];
  } catch (error) {
    connecting.then((late) => late.close(), () => {});
    return [found("not-registered", `nothing registers the driver: ${path}: ${messageOf(error)}`)];
  }
}

async function agent(world: NodeWorld, signal: AbortSignal): Promise<Finding[]> {
  const address = addressOf(world.config.metricsAddress);
  try {
    const samples = await world.metrics(signal);
    const version = samples.find(({ name }) => name === "rds_csi_build_info")?.labels.version;
    if (version === undefined) {
      return [found("agent-silent", `what answers at http://${address}/metrics is not the driver`)];
    }
    const { status } = await fetchText(address, "/readyz", signal);
    return status === 200 ? [ok(`${version} at ${address}, ready`)] : [found("not-ready", `${version} is not ready`)];
  } catch (error) {
    if (!(error instanceof Unreachable)) throw error;
    return [found("agent-silent", messageOf(error))];
  }
}

async function breakers(world: NodeWorld, signal: AbortSignal): Promise<Finding[]> {
  const open = await measured(world, "circuit_breakers_open", signal);
  return open > 0 ? [found("breaker-open", `${open} open`)] : [ok("none is open")];
}

async function children(world: NodeWorld, signal: AbortSignal): Promise<Finding[]> {
  const stuck = await measured(world, "child_processes_stuck", signal);
  return stuck > 0 ? [found("child-stuck", `${stuck} could not be ended`)] : [ok("none is left")];
}

/** @throws when the driver does not say: nothing is then known of it */
async function measured(world: NodeWorld, name: string, signal: AbortSignal): Promise<number> {
  const value = valueOf(await world.metrics(signal), name);
  if (value !== undefined) return value;
  throw new Unreachable(`the driver does not measure ${name}: it is another version`);
}
