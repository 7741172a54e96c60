import { Buffer } from "node:buffer";
import { createHash } from "node:crypto";
import { join } from "node:path";
import ssh2 from "ssh2";
import { writeAtomically } from "./row_files.ts";

/** A key pair in a file, its public half beside it. */
export interface KeyPair {
  /** Path of the private key (OpenSSH form, readable by its owner only). */
  file: string;
  private: string;
  /** In authorized_keys form. */
  public: string;
}

/** Reads the Ed25519 key pair of that name, or makes it. */
export function keyPair(folder: string, name: string): KeyPair {
  const file = join(folder, name);
  try {
    return { file, private: Deno.readTextFileSync(file), public: Deno.readTextFileSync(`${file}.pub`).trim() };
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    const made = generateKey();
    writeAtomically(`${file}.pub`, `${made.public}\n`);
    writeAtomically(file, made.private);
    return { file, private: made.private, public: made.public };
  }
}

/**
 * A new Ed25519 key pair: OpenSSH form and authorized_keys form. ssh2 makes a key that it cannot read itself about once in
 * 256 times (a leading zero is lost): that one is thrown away.
 */
export function generateKey(): { private: string; public: string } {
  for (;;) {
    const made = ssh2.utils.generateKeyPairSync("ed25519");
    const isSound = [made.private, made.public].every((key) => !(ssh2.utils.parseKey(key) instanceof Error));
    if (isSound) return made;
  }
}

/** As OpenSSH and RouterOS print it: `SHA256:` and the digest in base64 without padding. */
export function fingerprintOf(publicKey: string): string {
  const blob = Buffer.from(publicKey.split(" ")[1] ?? "", "base64");
  return `SHA256:${createHash("sha256").update(blob).digest("base64").replace(/=+$/, "")}`;
}

/** Whether a key that a client shows is among the lines. RouterOS takes RSA and Ed25519, and refuses ECDSA. */
export function isAuthorized(lines: readonly string[], type: string, blob: Uint8Array): boolean {
  const shown = Buffer.from(blob).toString("base64");
  const isTaken = type === "ssh-ed25519" || type === "ssh-rsa";
  return isTaken && lines.some((line) => line.split(/\s+/).includes(shown));
}
