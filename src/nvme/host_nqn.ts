import { createHash } from "node:crypto";

/** Who connects, as the server sees it. */
export interface Host {
  /** The host NQN. */
  nqn: string;
  /** The host identifier, a UUID. */
  id: string;
}

/** What an NQN made of a UUID begins with (NVMe Base Specification, "NVMe Qualified Names"). */
export const uuidNqn = "nqn.2014-08.org.nvmexpress:uuid:";

const uuidForm = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;

/** An identity whose id follows from its NQN unless it is given. */
export function hostOf(nqn: string, id?: string): Host {
  return { nqn, id: id ?? idOf(nqn) };
}

/** The UUID in an NQN made of one, else a UUID from its hash (RFC 9562 §5.8). */
function idOf(nqn: string): string {
  const uuid = nqn.startsWith(uuidNqn) ? nqn.slice(uuidNqn.length).toLowerCase() : "";
  if (uuidForm.test(uuid)) return uuid;
  const bytes = createHash("sha256").update(nqn).digest().subarray(0, 16);
  bytes[6] = (bytes[6] ?? 0) & 0x0f | 0x80;
  bytes[8] = (bytes[8] ?? 0) & 0x3f | 0x80;
  return bytes.toString("hex").replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}

/** @returns the NQN itself @throws what is wrong with it and how one is written */
export function hostNqn(text: string): string {
  if (/^nqn\.[!-~]{7,219}$/.test(text) && !/["'`\\,]/.test(text)) return text;
  throw new Error(`write an NQN of at most 223 characters, like ${uuidNqn}<uuid>`);
}

/** @returns the UUID in lower case @throws what is wrong with it and how one is written */
export function hostId(text: string): string {
  if (uuidForm.test(text.toLowerCase())) return text.toLowerCase();
  throw new Error("write a UUID, like 7d444840-9dc0-11d1-b245-5ffdce74fad2");
}
