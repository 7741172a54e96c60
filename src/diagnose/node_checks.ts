import { agentChecks } from "./agent_checks.ts";
import { attachmentChecks } from "./attachment_checks.ts";
import type { Check } from "./check.ts";
import { hostChecks } from "./host_checks.ts";
import { identityChecks } from "./identity_checks.ts";
import type { NodeWorld } from "./node_world.ts";
import { targetCheck, volumeChecks } from "./volume_checks.ts";

/** All checks of a node, in the order in which one would look: the machine, the driver, its volumes. */
export function nodeChecks(world: NodeWorld): Check[] {
  return [
    ...hostChecks(world),
    ...identityChecks(world),
    ...agentChecks(world),
    ...volumeChecks(world),
    targetCheck(world),
    ...attachmentChecks(world),
  ];
}
