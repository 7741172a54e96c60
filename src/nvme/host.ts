import { abortable, Deadline } from "../runtime/deadline.ts";
import { FailedPrecondition, messageOf, TimedOut, Unreachable } from "../runtime/errors.ts";
import { log } from "../runtime/log.ts";
import { type Host, hostId, hostNqn, hostOf, uuidNqn } from "./host_nqn.ts";
import { KeptHost } from "./kept_host.ts";
import type { HostOfSession, Sysfs } from "./sysfs.ts";

/** Settings of {@linkcode HostIdentity}. */
export interface HostOptions {
  /** What an administrator has set. */
  nqn?: string | undefined;
  id?: string | undefined;
  sysfs: Pick<Sysfs, "hosts">;
  /** The managed NQN prefix. */
  prefix: string;
  /** The host's folder `/etc/nvme`, where it is seen. */
  etcRoot: string;
  /** File that keeps what was derived. */
  keptFile: string;
  /** What an identity is derived from when the host has none: the UID of the Node. */
  uid: (options: { signal?: AbortSignal | undefined }) => Promise<string>;
  /** Milliseconds that all of it may take. */
  deadline: number;
}

interface Cancellable {
  signal?: AbortSignal | undefined;
}

/**
 * One host NQN and host id for every connect of this node. Linux refuses one host NQN with two host ids from 6.5 on
 * (drivers/nvme/host/fabrics.c), so both come from one source, the first of: the settings, a session that the kernel has,
 * the host's own files, what was derived and kept before, the Node's UID. Only the proven absence of one leads to the next.
 */
export class HostIdentity {
  readonly #options: HostOptions;
  readonly #first = Promise.withResolvers<Host>();
  #known: Host | undefined;
  #resolving: Promise<Host> | undefined;

  /** @throws {FailedPrecondition} when what is set cannot be an identity */
  constructor(options: HostOptions) {
    this.#options = options;
    if (options.id !== undefined && options.nqn === undefined) {
      throw new FailedPrecondition("--host-id needs --host-nqn: set both, or --host-nqn alone");
    }
  }

  /** Settles once the identity is known: when something was connected for the first time. */
  get known(): Promise<Host> {
    return this.#first.promise;
  }

  /**
   * The identity, looked for at the first question and the same from then on.
   * @throws {FailedPrecondition} when a source has one that cannot be used
   * @throws {Unreachable} when a source cannot be asked now
   */
  async get({ signal }: Cancellable = {}): Promise<Host> {
    if (this.#known) return this.#known;
    this.#resolving ??= this.#resolve().finally(() => this.#resolving = undefined);
    return await abortable(this.#resolving, signal);
  }

  async #resolve(): Promise<Host> {
    using deadline = new Deadline(this.#options.deadline, "the sources of this node's host NQN");
    const { signal } = deadline;
    const { host, source } = await abortable(this.#find(signal), signal).catch((error) => {
      throw error instanceof TimedOut ? unknown(error) : error;
    });
    log.info("connecting as this NVMe host", { hostNqn: host.nqn, hostId: host.id, source });
    this.#known = host;
    this.#first.resolve(host);
    return host;
  }

  async #find(signal: AbortSignal): Promise<{ host: Host; source: string }> {
    const { nqn, id, etcRoot, keptFile, uid } = this.#options;
    const sessions = await this.#options.sysfs.hosts(this.#options.prefix, { signal });
    if (nqn !== undefined) return { host: await this.#asSet(nqn, id, sessions), source: "settings" };
    const [session] = sessions;
    if (session) return { host: hostOf(session.hostNqn, session.hostId), source: `the session of ${session.nqn}` };
    const files = await fromFiles(etcRoot);
    if (files) return { host: files, source: etcRoot };
    const kept = new KeptHost(keptFile);
    const before = await kept.read();
    if (before) return { host: before, source: keptFile };
    const host = hostOf(uuidNqn + (await uid({ signal })).toLowerCase());
    await kept.write(host);
    return { host, source: "the Node's UID" };
  }

  /** With an id that is not set, the one that the kernel or the host has with the same NQN. */
  async #asSet(nqn: string, id: string | undefined, sessions: readonly HostOfSession[]): Promise<Host> {
    const present = sessions.find(({ hostNqn, hostId }) => hostNqn === nqn && hostId !== undefined)?.hostId;
    if (id !== undefined && present !== undefined && present !== id) {
      log.warn(
        "--host-id is not the one that sessions of this node have with --host-nqn: Linux may refuse to connect",
        {
          hostId: id,
          present,
        },
      );
    }
    if (id ?? present) return hostOf(nqn, id ?? present);
    const files = await fromFiles(this.#options.etcRoot);
    return files?.nqn === nqn ? files : hostOf(nqn);
  }
}

function unknown(cause: TimedOut): Unreachable {
  return new Unreachable(
    `it is not known yet as which NVMe host this node connects: ${cause.message}. It is tried again; or set --host-nqn`,
    { cause },
  );
}

/** What nvme-cli takes on this host: the first line of each file. */
async function fromFiles(folder: string): Promise<Host | undefined> {
  const nqn = await fromFile(`${folder}/hostnqn`, hostNqn);
  return nqn === undefined ? undefined : hostOf(nqn, await fromFile(`${folder}/hostid`, hostId));
}

async function fromFile(path: string, check: (text: string) => string): Promise<string | undefined> {
  try {
    return check((await Deno.readTextFile(path)).split("\n", 1)[0]?.trim() ?? "");
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw new FailedPrecondition(
      `${path} cannot be used: ${messageOf(error)}. Repair it on the host ('nvme gen-hostnqn' makes one), or set ` +
        "--host-nqn and --host-id",
      { cause: error },
    );
  }
}
