import { Buffer } from "node:buffer";
import { StartOver } from "../runtime/errors.ts";

const mark = "after:";

/** A token that says where the next page starts. It holds the last id shown, so it survives whatever changes between. */
export function tokenAfter(volumeId: string): string {
  return Buffer.from(mark + volumeId).toString("base64url");
}

/** The last id shown before this page. @throws {StartOver} for what is no token of ours (CSI 1.13: ABORTED) */
export function readToken(token: string): string {
  const text = Buffer.from(token, "base64url").toString("utf8");
  if (text.startsWith(mark) && tokenAfter(text.slice(mark.length)) === token) return text.slice(mark.length);
  throw new StartOver(`'${token}' is no token of this driver: list again from the start, without a token`);
}
