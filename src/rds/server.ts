import { FailedPrecondition } from "../runtime/errors.ts";
import { log } from "../runtime/log.ts";
import { routerOsError } from "./errors.ts";
import { ros } from "./script.ts";
import { connectSsh, type SshOptions, type Transport } from "./ssh.ts";

/** `nvme-tcp-server-nqn` exists from 7.21 on: before it the NQN is the slot's name, and fencing impossible. */
const FLOOR = [7, 21, 0] as const;

const warned = new Set<string>();

/** Logs in and makes sure that the server is one the driver can work with. */
export async function connectServer(options: SshOptions, signal: AbortSignal): Promise<Transport> {
  const transport = await connectSsh(options, signal);
  try {
    await checkServer(transport, signal);
    return transport;
  } catch (error) {
    transport.close();
    throw error;
  }
}

/** Reads the server's version and packages. @throws {FailedPrecondition} below the floor, with the reason. */
export async function checkServer(transport: Transport, signal: AbortSignal): Promise<void> {
  const script = ros`:put [/system/resource/get version]; :put [:len [/system/package/find where name="rose-storage"]]`;
  const text = await transport.exec(script.text, signal);
  const [said = "", packages] = text.trim().split(/\s*\r?\n/);
  const version = parseVersion(said);
  if (!version) throw routerOsError(text, "tell its version");
  if (compare(version, FLOOR) < 0) {
    throw new FailedPrecondition(
      `RouterOS ${said} is too old: before 7.21 an exported disk cannot have an NQN of its own; upgrade RouterOS`,
    );
  }
  for (const warning of warningsFor(said, packages)) warnOnce(warning);
}

/** What an administrator should know of a server that can be worked with. Pure. */
export function warningsFor(said: string, packages: string | undefined): string[] {
  const warnings: string[] = [];
  if (hasKnownHoles(parseVersion(said) ?? [0, 0, 0])) {
    warnings.push(
      `RouterOS ${said} has known SSH holes (taken over before login, fixed in 7.23.4 and 7.24.2): upgrade it`,
    );
  }
  if (packages === "0") {
    warnings.push("RouterOS shows no package rose-storage: without it there are no NVMe/TCP exports; install it");
  }
  return warnings;
}

/** `7.24.4 (stable)` → [7, 24, 4]; betas count as the release they lead to. */
export function parseVersion(text: string): [number, number, number] | undefined {
  const found = /^(\d+)\.(\d+)(?:\.(\d+)|(?:alpha|beta|rc)\d+)?(?:\s|$)/.exec(text.trim());
  return found ? [Number(found[1]), Number(found[2]), Number(found[3] ?? 0)] : undefined;
}

function compare(a: readonly number[], b: readonly number[]): number {
  const at = [0, 1, 2].find((part) => a[part] !== b[part]);
  return at === undefined ? 0 : (a[at] ?? 0) - (b[at] ?? 0);
}

function hasKnownHoles(version: readonly number[]): boolean {
  return compare(version, [7, 23, 4]) < 0 || (compare(version, [7, 24, 0]) >= 0 && compare(version, [7, 24, 2]) < 0);
}

function warnOnce(sentence: string): void {
  if (!warned.has(sentence)) log.warn(sentence);
  warned.add(sentence);
}
