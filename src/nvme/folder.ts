import { abortable } from "../runtime/deadline.ts";
import { log } from "../runtime/log.ts";

/** Milliseconds between two looks where nothing tells of a change, and where something does. */
const [withoutEvents, withEvents] = [20, 100];

/**
 * Asks `look` until it answers: at once when something changes in a folder, and every 100 ms; every 20 ms where changes
 * cannot be seen. Rejects with the signal's reason.
 */
export async function untilFolder<T>(
  folder: string,
  look: () => Promise<T | undefined>,
  { signal }: { signal: AbortSignal },
): Promise<T> {
  let wake = () => {};
  using changes = watchOf(folder);
  if (changes) follow(changes, () => wake());
  for (;;) {
    const { promise: changed, resolve } = Promise.withResolvers<void>();
    wake = resolve; // Before the look: what changes under it is not missed.
    const found = await look();
    if (found !== undefined) return found;
    const timer = setTimeout(resolve, changes ? withEvents : withoutEvents);
    await abortable(changed, signal).finally(() => clearTimeout(timer));
  }
}

/** Undefined where the folder cannot be watched: the kernel's inotify instances may be used up. */
function watchOf(folder: string): Deno.FsWatcher | undefined {
  try {
    return Deno.watchFs(folder, { recursive: false });
  } catch (error) {
    log.debug("a folder cannot be watched: it is looked at more often", { folder, error });
    return undefined;
  }
}

async function follow(changes: Deno.FsWatcher, changed: () => void): Promise<void> {
  try {
    for await (const _ of changes) changed();
  } catch (error) {
    log.debug("a folder is no longer watched", { error });
  }
}
