import { print } from "../lab/layer.ts";

const started = performance.now();

/** Prints what is being done, does it, and prints what came of it and how long it took. */
export async function step<T>(what: string, work: () => Promise<T>, result?: (value: T) => string): Promise<T> {
  const at = ((performance.now() - started) / 1000).toFixed(1).padStart(5);
  print(`${at} s  ${what} … `);
  const began = performance.now();
  try {
    const value = await work();
    const told = result?.(value);
    print(`${told ? `${told}, ` : ""}${Math.round(performance.now() - began)} ms\n`);
    return value;
  } catch (error) {
    print("failed\n");
    throw error;
  }
}

/** What the demo could not show, and how to get it. */
export const leftOut: string[] = [];

/** Prints the last lines. */
export function conclude(): void {
  for (const reason of leftOut) print(`Left out: ${reason}\n`);
  print(`Done in ${((performance.now() - started) / 1000).toFixed(1)} s.\n`);
}

/** Bytes for people. */
export function size(bytes: bigint | number): string {
  return `${Math.round(Number(bytes) / 2 ** 20)} MiB`;
}
