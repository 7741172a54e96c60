import type { Config } from "../config_read.ts";
import { Commands } from "../runtime/command.ts";
import { FailedPrecondition } from "../runtime/errors.ts";
import type { Circumstances } from "./diagnose.ts";
import { print } from "./print.ts";
import { probe } from "./probe.ts";
import { jsonProbe, textProbe } from "./probe_report.ts";
import { patience } from "./questions.ts";
import { connectedQuestions, leftOut } from "./questions_connected.ts";

/**
 * Asks RouterOS what nobody has written down, and prints the answers. The exit status is 0 when all was asked that could be
 * and nothing is left, 1 when something was not answered, 2 when something is left on RouterOS.
 */
export async function probeCommand(config: Config, { version, signal }: Circumstances): Promise<number> {
  if (!config.yesMakeAScratchDisk) {
    throw new FailedPrecondition(
      `this makes a disk of ${config.scratchSize} bytes (and for moments a few more) under /${config.rdsVolumeBasePath} on ` +
        `${config.rdsAddress}, exports it, and removes all of it again. If that may be, say --yes-make-a-scratch-disk`,
    );
  }
  const connected = await connectedQuestions(config, { commands: new Commands(), patience, signal });
  const probed = await probe(config, { signal, connected, leftOut: [leftOut] });
  const about = { version, time: new Date() };
  print(config.output === "json" ? jsonProbe(probed, about) : textProbe(probed, about));
  if (probed.left !== undefined) return 2;
  const wanted = probed.asked.filter(({ name }) => name !== leftOut.name);
  return connected.why === undefined && wanted.every(({ answer }) => answer !== undefined) ? 0 : 1;
}
