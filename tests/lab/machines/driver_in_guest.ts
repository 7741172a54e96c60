import { Deadline, poll } from "../../../src/runtime/deadline.ts";
import { PREFIX } from "../driver.ts";
import { commandLine } from "../process.ts";
import type { GuestProcess } from "./guest.ts";
import { patient } from "./patience.ts";

/** Settings by flag, without dashes; a switch is `true`. */
export type Settings = Readonly<Record<string, string | number | true>>;

/** What starts the driver with nothing but what its permission set grants: a flag would stand in for the set's list. */
export function driverIn(mode: "node" | "simulator", settings: Settings): { program: string; args: string[] } {
  const { program, args } = commandLine({ mode, settings, folder: "" });
  return { program, args: args.filter((arg) => !arg.startsWith("--allow-")) };
}

/** What it is told by its environment. */
export const driverEnv = { CSI_MANAGED_NQN_PREFIX: PREFIX };

/** Waits until a process has written a line of this form. @throws with all that it wrote */
export async function said(process: GuestProcess, form: RegExp): Promise<string> {
  using deadline = new Deadline(patient(240_000), `${process.name} to say ${form}`);
  try {
    return await poll(async () => {
      const line = process.find(form);
      if (line || (await process.state()).running) return line;
      throw new Error(`${process.name} ended`);
    }, { signal: deadline.signal, interval: 50 });
  } catch (error) {
    throw new Error(`${error instanceof Error ? error.message : error}; it wrote:\n${process.output}`, {
      cause: error,
    });
  }
}
