/** What stands where a secret was. */
export const TAKEN_OUT = "(taken out)";

/** Names of what is nobody's business, as settings, fields and options have them. */
const names =
  "[\\w.-]*(?:passw(?:or)?d|passphrase|secret|token|api[_-]?key|private[_-]?key|credentials?|authorization)[\\w.-]*";

/** What secrets look like. */
const forms: readonly [pattern: RegExp, instead: string][] = [
  [/-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|$)/g, TAKEN_OUT],
  [/\b(Bearer|Basic)\s+[A-Za-z0-9._~+/=-]{6,}/gi, `$1 ${TAKEN_OUT}`],
  // A JSON Web Token, such as that of a service account.
  [/\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*/g, TAKEN_OUT],
  // Keys of NVMe's own authentication and encryption (NVMe TCP Transport Specification).
  [/\b(?:DHHC-1|NVMeTLSkey-1):\d\d:[A-Za-z0-9+/=]+:?/g, TAKEN_OUT],
  [/(:\/\/)[^\s/@:]+:[^\s/@]+@/g, `$1${TAKEN_OUT}@`],
  [new RegExp(`("${names}"\\s*:\\s*)"(?:[^"\\\\]|\\\\.)*"`, "gi"), `$1"${TAKEN_OUT}"`],
  [new RegExp(`\\b(${names}\\s*=\\s*)(?:"[^"]*"|'[^']*'|[^\\s,;&'"]+)`, "gi"), `$1${TAKEN_OUT}`],
  [new RegExp(`\\b(${names}:\\s+)(?!\\(|the |its |it )[^\\s,;]{6,}`, "gi"), `$1${TAKEN_OUT}`],
];

/**
 * A text without secrets: those that are known to the letter, in whole or by the line, and whatever looks like one. Better
 * too much than too little.
 * @param known contents of files that hold secrets
 */
export function withoutSecrets(text: string, known: readonly string[]): string {
  const lines = known.flatMap((secret) => [secret, ...secret.split(/\r?\n/)]).map((line) => line.trim());
  // What a line of a log has may be broken off, or stand between quotes with \n in it.
  const parts = [...new Set(lines)].filter((line) => line.length >= 8 && !/^-----/.test(line))
    .sort((a, b) => b.length - a.length);
  for (const part of parts) text = text.replaceAll(part, TAKEN_OUT);
  for (const [pattern, instead] of forms) text = text.replaceAll(pattern, instead);
  return text;
}
