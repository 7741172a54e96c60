import { pause } from "../runtime/deadline.ts";
import { messageOf } from "../runtime/errors.ts";

/** A thing vanished while it was being read: look again. */
export class Gone extends Error {}

const attempts = 5;
/** Milliseconds between them. */
const interval = 20;

/** Looks anew when something vanished meanwhile. @throws {Gone} when that goes on */
export async function lookAgain<T>(look: () => Promise<T>, signal: AbortSignal): Promise<T> {
  for (let attempt = 1;; attempt++) {
    try {
      return await look();
    } catch (error) {
      if (!(error instanceof Gone) || attempt >= attempts) throw error;
      await pause(interval, signal);
    }
  }
}

/** Tells what is no longer there from what cannot be read. */
export function asGone(error: unknown): unknown {
  const code = (error as { code?: unknown }).code;
  const gone = error instanceof Deno.errors.NotFound || code === "ENOENT" || code === "ENODEV";
  return gone ? new Gone(messageOf(error), { cause: error }) : error;
}

/** The text of an attribute, without the line's end. @throws {Gone} when it, or its folder, is not there */
export async function attribute(folder: string, name: string): Promise<string> {
  try {
    return (await Deno.readTextFile(`${folder}/${name}`)).trim();
  } catch (error) {
    throw asGone(error);
  }
}

/** Undefined when its folder is there without it. */
export async function attributeIfAny(folder: string, name: string): Promise<string | undefined> {
  try {
    return await attribute(folder, name);
  } catch (error) {
    if (!(error instanceof Gone)) throw error;
    await attribute(folder, "state");
    return undefined;
  }
}

/** What a folder has in it, sorted. @throws {Gone} when it is not there */
export async function namesIn(folder: string): Promise<string[]> {
  try {
    return (await Array.fromAsync(Deno.readDir(folder))).map((entry) => entry.name).sort();
  } catch (error) {
    throw asGone(error);
  }
}
