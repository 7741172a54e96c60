/** Writes all of a text to standard output. */
export function print(text: string): void {
  write(new TextEncoder().encode(text));
}

/** Writes all bytes to standard output. */
export function write(bytes: Uint8Array): void {
  for (let at = 0; at < bytes.length;) at += Deno.stdout.writeSync(bytes.subarray(at));
}
