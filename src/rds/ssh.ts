import { Buffer } from "node:buffer";
import { createHash } from "node:crypto";
import ssh2 from "ssh2";
import { reasonOf, throwIfAborted } from "../runtime/deadline.ts";
import { FailedPrecondition, messageOf, Unreachable } from "../runtime/errors.ts";
import { hideFromLog } from "../runtime/log.ts";

/** One connection that runs command lines, each in a channel of its own. */
export interface Transport {
  /**
   * Runs one line and resolves to all that it wrote on standard output.
   * @throws {Unreachable} when the answer was lost (the channel ended without an exit), or the signal's reason
   */
  exec(line: string, signal: AbortSignal): Promise<string>;
  /** Settles when the connection has ended, for whatever reason. */
  readonly closed: Promise<void>;
  close(): void;
}

/** What a line left, its streams apart. */
export interface Answer {
  stdout: string;
  stderr: string;
  status: number;
}

/** A login at RouterOS. */
export interface Login extends Transport {
  /** As `exec`, with what the console does not tell the driver: its answers depend on neither stream nor status. */
  execApart(line: string, signal: AbortSignal): Promise<Answer>;
}

/** Where RouterOS is and how to log in. Both files are read anew at every connection. */
export interface SshOptions {
  host: string;
  port: number;
  user: string;
  /** Path of the private key (OpenSSH or PEM form; RSA or Ed25519). */
  keyFile: string;
  /** Path of the server's public key(s), a line each in authorized_keys form. */
  hostKeyFile: string;
  /** Accept any server: for trials only. */
  insecureSkipVerify?: boolean;
}

const hostKeyAlgorithms: Record<string, ssh2.ServerHostKeyAlgorithm[]> = {
  "ssh-ed25519": ["ssh-ed25519"],
  "ssh-rsa": ["rsa-sha2-512", "rsa-sha2-256"],
};

/** What a login depends on, to tell when it has changed; a file that cannot be read counts as empty. */
export async function loginOf(options: SshOptions): Promise<string> {
  const files = [options.keyFile, options.hostKeyFile].map((path) => Deno.readTextFile(path).catch(() => ""));
  return (await Promise.all(files)).join("\0");
}

/** Logs in to RouterOS. The signal ends the attempt. */
export async function connectSsh(options: SshOptions, signal: AbortSignal): Promise<Login> {
  const privateKey = await readPrivateKey(options.keyFile);
  const pinned = options.insecureSkipVerify ? undefined : await readHostKeys(options.hostKeyFile);
  throwIfAborted(signal);
  const client = new ssh2.Client();
  let refused: Error | undefined;
  const ready = new Promise<void>((resolve, reject) => {
    client.once("ready", resolve);
    client.on("error", (error) => reject(refused ?? connectError(options, error)));
    client.once("close", () => reject(refused ?? connectError(options, new Error("the server closed the connection"))));
    signal.addEventListener("abort", () => reject(reasonOf(signal)), { once: true });
  });
  ready.catch(() => {});
  try {
    client.connect({
      host: options.host,
      port: options.port,
      username: options.user,
      privateKey,
      readyTimeout: 0,
      algorithms: { serverHostKey: preferredAlgorithms(pinned) },
      hostVerifier: (key: Buffer) => {
        refused = pinned && verify(key, pinned, options);
        return refused === undefined;
      },
    });
    client.setNoDelay(true); // Else each small packet waits for the other side's delayed acknowledgement.
    await ready;
  } catch (error) {
    client.destroy();
    throw error;
  }
  return new SshTransport(client);
}

class SshTransport implements Login {
  readonly closed: Promise<void>;
  readonly #client: ssh2.Client;
  readonly #waiting = new Set<(error: Error) => void>();

  constructor(client: ssh2.Client) {
    this.#client = client;
    this.closed = new Promise((resolve) => client.once("close", () => resolve()));
    this.closed.then(() => {
      const lost = new Unreachable("the connection to RouterOS was cut before the answer was complete");
      for (const reject of this.#waiting) reject(lost);
    });
  }

  async exec(line: string, signal: AbortSignal): Promise<string> {
    return (await this.#run(line, signal)).all;
  }

  execApart(line: string, signal: AbortSignal): Promise<Answer> {
    return this.#run(line, signal);
  }

  async #run(line: string, signal: AbortSignal): Promise<Collected> {
    throwIfAborted(signal);
    const { promise, resolve, reject } = Promise.withResolvers<Collected>();
    this.#waiting.add(reject);
    const onAbort = () => reject(reasonOf(signal));
    signal.addEventListener("abort", onAbort, { once: true });
    try {
      this.#client.exec(line, (error, channel) => {
        if (!error) return collect(channel, signal, { resolve, reject });
        reject(new Unreachable(`RouterOS opened no channel: ${error.message}; try again`, { cause: error }));
      });
    } catch (error) {
      reject(new Unreachable(`the connection to RouterOS has ended: ${messageOf(error)}; try again`, { cause: error }));
    }
    try {
      return await promise;
    } finally {
      this.#waiting.delete(reject);
      signal.removeEventListener("abort", onAbort);
    }
  }

  close(): void {
    this.#client.destroy();
  }
}

/** `all`: both streams in the order in which they came. */
interface Collected extends Answer {
  all: string;
}

/** Gathers a channel's output. Only an `exit` proves that the answer is whole: a cut closes a channel without one. */
function collect(
  channel: ssh2.ClientChannel,
  signal: AbortSignal,
  done: { resolve: (answer: Collected) => void; reject: (error: Error) => void },
): void {
  const chunks: { of: "stdout" | "stderr"; bytes: Uint8Array }[] = [];
  let status: number | undefined;
  const onAbort = () => channel.close();
  if (signal.aborted) channel.close();
  signal.addEventListener("abort", onAbort, { once: true });
  channel.on("data", (bytes: Uint8Array) => chunks.push({ of: "stdout", bytes }));
  channel.stderr.on("data", (bytes: Uint8Array) => chunks.push({ of: "stderr", bytes }));
  const textOf = (...streams: string[]) =>
    Buffer.concat(chunks.filter((chunk) => streams.includes(chunk.of)).map(({ bytes }) => bytes)).toString("utf8");
  // Without a code the command was ended by a signal, and nobody knows how far it came.
  channel.on("exit", (code: number | null) => status = code ?? undefined);
  channel.on("error", (error: Error) => done.reject(new Unreachable(`the channel failed: ${error.message}`)));
  channel.on("close", () => {
    signal.removeEventListener("abort", onAbort);
    const [stdout, stderr] = [textOf("stdout"), textOf("stderr")];
    if (status !== undefined) done.resolve({ all: textOf("stdout", "stderr"), stdout, stderr, status });
    else done.reject(new Unreachable("RouterOS closed the channel before the answer was complete"));
  });
  channel.end();
}

function connectError(options: SshOptions, error: Error & { level?: string }): Error {
  const where = `${options.user}@${options.host}:${options.port}`;
  if (error.level === "client-authentication") {
    return new Unreachable(
      `RouterOS refused the login of ${where}: import the public key of ${options.keyFile} for this user ` +
        "('/user/ssh-keys/import'; RSA or Ed25519, ECDSA is refused), or correct --rds-user",
      { cause: error },
    );
  }
  return new Unreachable(
    `RouterOS cannot be reached at ${where}: ${error.message}; check --rds-address, --rds-port, the network, and that ` +
      "'/ip/service' has ssh enabled",
    { cause: error },
  );
}

async function readPrivateKey(path: string): Promise<string> {
  const unreadable = (error: unknown) =>
    new FailedPrecondition(
      `the private key file ${path} cannot be read: ${
        messageOf(error)
      }; put an RSA or Ed25519 key without a passphrase ` +
        "there (Secret key rds-private-key)",
      { cause: error },
    );
  const text = await Deno.readTextFile(path).catch((error) => {
    throw unreadable(error);
  });
  hideFromLog(text);
  const parsed = ssh2.utils.parseKey(text);
  if (parsed instanceof Error) throw unreadable(parsed);
  const isPrivate = [parsed].flat().some((key) => key.isPrivateKey());
  if (!isPrivate) throw unreadable("it holds a public key");
  return text;
}

/** The pinned keys, as base64 of their blobs. A file that is missing pins nothing, so nothing is accepted. */
async function readHostKeys(path: string): Promise<string[]> {
  try {
    return (await Deno.readTextFile(path)).split("\n")
      .filter((line) => !/^\s*[#@]/.test(line)) // Comments, and known_hosts' marks for keys that were revoked.
      .flatMap((line) => /(?:^|\s)(?:ssh-|ecdsa-)\S+\s+([A-Za-z0-9+/]+=*)/.exec(line)?.[1] ?? []);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return [];
    throw error;
  }
}

function preferredAlgorithms(pinned: string[] | undefined): ssh2.ServerHostKeyAlgorithm[] {
  const wanted = (pinned ?? []).flatMap((key) => hostKeyAlgorithms[keyType(Buffer.from(key, "base64"))] ?? []);
  return [...new Set([...wanted, ...Object.values(hostKeyAlgorithms).flat()])];
}

/** The type's name stands in front of every SSH key blob (RFC 4253 §6.6). */
function keyType(blob: Buffer): string {
  return blob.length < 4 ? "" : blob.subarray(4, 4 + blob.readUInt32BE(0)).toString("latin1");
}

/** As OpenSSH and RouterOS print it: `SHA256:` and the digest in base64 without padding. */
function fingerprint(key: Buffer): string {
  return `SHA256:${createHash("sha256").update(key).digest("base64").replace(/=+$/, "")}`;
}

function verify(key: Buffer, pinned: string[], options: SshOptions): Error | undefined {
  const seen = key.toString("base64");
  if (pinned.includes(seen)) return undefined;
  const found = `${options.host}:${options.port} shows the host key ${keyType(key)} ${fingerprint(key)}`;
  const remedy =
    `if that is the fingerprint of your RouterOS (compare it there, not over this network), put the line ` +
    `'${keyType(key)} ${seen}' into ${options.hostKeyFile} (Secret key rds-host-key)`;
  return new FailedPrecondition(
    pinned.length === 0
      ? `no host key is pinned in ${options.hostKeyFile}, and ${found}: ${remedy}`
      : `the server is not the one pinned in ${options.hostKeyFile}: ${found}; somebody may be in between. ${remedy}`,
  );
}
