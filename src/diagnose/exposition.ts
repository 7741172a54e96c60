import { abortable } from "../runtime/deadline.ts";
import { messageOf, Unreachable } from "../runtime/errors.ts";

/** One line of the text that Prometheus reads. */
export interface Sample {
  name: string;
  labels: Readonly<Record<string, string>>;
  value: number;
}

/** Reads the text of `/metrics`; lines of another form are left out. */
export function parseExposition(text: string): Sample[] {
  return text.split("\n").flatMap((line) => {
    const [, name, labels = "", value] = /^([A-Za-z_:][\w:]*)(?:\{(.*)\})? (\S+)/.exec(line) ?? [];
    if (name === undefined) return [];
    const pairs = [...labels.matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map(([, key, text]) => [key, text]);
    return [{ name, labels: Object.fromEntries(pairs), value: Number(value) }];
  });
}

/** The sum of a metric's samples, by its name without the prefix; undefined when there is none. */
export function valueOf(samples: readonly Sample[], name: string): number | undefined {
  const own = samples.filter((sample) => sample.name === `rds_csi_${name}`);
  return own.length === 0 ? undefined : own.reduce((sum, { value }) => sum + value, 0);
}

/** Where a process of this machine serves its HTTP. */
export function addressOf({ host, port }: { host: string; port: number }): string {
  const local = host === "" || host === "0.0.0.0" || host === "::" ? "127.0.0.1" : host;
  return `${local.includes(":") ? `[${local}]` : local}:${port}`;
}

/** What is served at a path. @throws {Unreachable} when there is no answer */
export async function fetchText(
  address: string,
  path: string,
  signal: AbortSignal,
): Promise<{ status: number; text: string }> {
  try {
    const response = await fetch(`http://${address}${path}`, { signal, redirect: "error" });
    return { status: response.status, text: await abortable(response.text(), signal) };
  } catch (error) {
    throw new Unreachable(`there is no answer at http://${address}${path}: ${reasonOf(error)}`, { cause: error });
  }
}

/** Deno's fetch says why in the cause of its error. */
function reasonOf(error: unknown): string {
  const { cause } = error as { cause?: unknown };
  return cause === undefined ? messageOf(error) : messageOf(cause);
}
