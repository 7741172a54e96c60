/** A file of an archive. */
export interface Entry {
  /** At most 100 bytes, with `/` between its parts. */
  name: string;
  text: string;
}

const BLOCK = 512;

/** An archive of files, in the form that every `tar` reads (POSIX.1-1988, "ustar"). */
export function tar(entries: readonly Entry[], time: Date): Uint8Array<ArrayBuffer> {
  const encoder = new TextEncoder();
  const parts = entries.flatMap(({ name, text }) => {
    const bytes = encoder.encode(text);
    const padding = new Uint8Array((BLOCK - bytes.length % BLOCK) % BLOCK);
    return [headerOf(name, { size: bytes.length, time }), bytes, padding];
  });
  parts.push(new Uint8Array(2 * BLOCK));
  const whole = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

function headerOf(name: string, { size, time }: { size: number; time: Date }): Uint8Array {
  const header = new Uint8Array(BLOCK);
  const put = (at: number, text: string) => void header.set(new TextEncoder().encode(text), at);
  const octal = (value: number, digits: number) => value.toString(8).padStart(digits, "0");
  if (new TextEncoder().encode(name).length > 100) throw new RangeError(`the name '${name}' is over 100 bytes`);
  put(0, name);
  put(100, "0000600\0" + "0000000\0" + "0000000\0"); // Mode, user, group.
  put(124, `${octal(size, 11)}\0`);
  put(136, `${octal(Math.floor(time.getTime() / 1000), 11)}\0`);
  put(148, " ".repeat(8)); // The sum counts its own place as blanks.
  put(156, "0");
  put(257, "ustar\0" + "00");
  put(148, `${octal(header.reduce((sum, byte) => sum + byte, 0), 6)}\0 `);
  return header;
}

/** Compresses as gzip does. */
export async function gzip(bytes: Uint8Array<ArrayBuffer>): Promise<Uint8Array<ArrayBuffer>> {
  const stream = new Blob([bytes]).stream().pipeThrough(new CompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}
