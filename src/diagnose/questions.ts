import { ros } from "../rds/script.ts";
import { print } from "../rds/disk_scripts.ts";
import { FailedPrecondition } from "../runtime/errors.ts";
import type { Said } from "./probe_console.ts";
import { ofTime } from "./questions_of_time.ts";
import { nqnPrefix, type Scratch } from "./scratch.ts";

/** What a device answered. */
export interface Answer {
  /** The value, as the simulator's setting of that name has it where there is one. */
  value: string | number | boolean;
  /** What was seen, in RouterOS' words where it said something. */
  seen: string;
}

/** Something that no manual says. */
export interface Question {
  /** Of the simulator's setting (`--guesses`) where it has one. */
  name: string;
  /** A sentence that the value makes true or false, or completes. */
  asks: string;
  /** What the driver expects; it works with the other as well unless the guides say what to set. */
  expects: string;
  /** Asks the device. The scratch disk is there, and is tidied up afterwards. @throws why it could not be asked */
  ask(scratch: Scratch, signal: AbortSignal): Promise<Answer>;
}

/** How long to wait for what may never come. Milliseconds; tests make it short. */
export interface Patience {
  /** For a change whose channel was cut. */
  late: number;
  /** How long each of several channels is held open, as RouterOS writes times. */
  held: string;
  /** For a channel of several at once. */
  channel: number;
  /** For connecting, and for what a connected node is to see. */
  connected: number;
  /** For a connected node to be cut off. */
  cutOff: number;
  /** For everything to be removed. */
  cleaning: number;
}

export const patience: Patience = {
  late: 15_000,
  held: "1s",
  channel: 15_000,
  connected: 30_000,
  cutOff: 30_000,
  cleaning: 120_000,
};

/** What RouterOS answered, on one line. */
export function quoted({ text }: { text: string }): string {
  const line = text.trim().replaceAll(/\s*\r?\n\s*/g, " | ");
  return line === "" ? "nothing" : `'${line.slice(0, 160)}'`;
}

/** A second disk that is to be refused: `true` when it is. */
async function isRefused(adding: Promise<Said>): Promise<Answer> {
  const said = await adding;
  return said.done ? { value: false, seen: "taken" } : { value: true, seen: quoted(said) };
}

/** All that can be asked without a connected node, the harmless first. */
export function questions(wait: Patience): Question[] {
  return [...ofConsole(), ...ofRows(), ...ofFiles(), ...ofTime(wait)];
}

function ofConsole(): Question[] {
  return [
    {
      name: "failureStatus",
      asks: "exit status of a line that fails",
      expects: "0: failures are told by their text alone",
      async ask(scratch, signal) {
        const { status, stdout, stderr } = await failing(scratch, signal);
        return { value: status, seen: quoted({ text: stdout + stderr }) };
      },
    },
    {
      name: "failuresOnStderr",
      asks: "the text of a failure goes to standard error",
      expects: "false",
      async ask(scratch, signal) {
        const { stdout, stderr } = await failing(scratch, signal);
        return {
          value: stderr.trim() !== "",
          seen: `stdout ${quoted({ text: stdout })}, stderr ${quoted({ text: stderr })}`,
        };
      },
    },
    {
      name: "noRows",
      asks: "JSON for no rows",
      expects: "brackets or nothing",
      async ask(scratch, signal) {
        const text = await scratch.must(print(ros`slot=${`${scratch.name}-none`}`), signal);
        const value = text.trim() === "" ? "nothing" : text.trim() === "[]" ? "brackets" : "other";
        return { value, seen: quoted({ text }) };
      },
    },
    {
      name: "jsonDecimals",
      asks: "numbers in JSON as 2048.000000",
      expects: "true or false",
      async ask(scratch, signal) {
        const text = await scratch.must(print(scratch.ours(scratch.name)), signal);
        const [seen, decimals] = /"size":\s*"?\d+(\.\d+)?"?/.exec(text) ?? [];
        if (seen === undefined) throw new FailedPrecondition(`no size is in the answer: ${quoted({ text })}`);
        return { value: decimals !== undefined, seen };
      },
    },
    {
      name: "sizeType",
      asks: "type of a disk's size in scripts",
      expects: "num: else volumes do not grow, and the call says so",
      async ask(scratch, signal) {
        const text = await scratch.must(
          ros`:put [:typeof [/disk/get [/disk/find where ${scratch.ours(scratch.name)}] size]]`,
          signal,
        );
        return { value: text.trim(), seen: quoted({ text }) };
      },
    },
  ];
}

async function failing(scratch: Scratch, signal: AbortSignal) {
  const login = await scratch.console.another(signal);
  try {
    return await login.execApart(ros`/disk/get ${`${scratch.name}-none`} size`.text, signal);
  } finally {
    login.close();
  }
}

function ofRows(): Question[] {
  return [
    {
      name: "leadingSlash",
      asks: "paths of /disk begin with a slash",
      expects: "true or false",
      async ask(scratch, signal) {
        const text = await scratch.must(print(scratch.ours(scratch.name)), signal);
        const path = /"file-path":\s*"([^"]*)"/.exec(text)?.[1];
        if (path === undefined) throw new FailedPrecondition(`no file-path is in the answer: ${quoted({ text })}`);
        return { value: path.startsWith("/"), seen: path };
      },
    },
    {
      name: "exactSize",
      asks: "a size in bytes is taken to the byte, also when a disk grows",
      expects: "true",
      async ask(scratch, signal) {
        const before = (await scratch.main(signal)).size;
        const said = await scratch.set(ros`file-size=${2n * scratch.size}`, signal);
        if (!said.done) return { value: false, seen: quoted(said) };
        const after = (await scratch.main(signal)).size;
        return { value: before === scratch.size && after === 2n * scratch.size, seen: `${before}, then ${after}` };
      },
    },
    {
      name: "longestSlot",
      asks: "longest slot, in characters (32, 33 and 40 are tried)",
      expects: "32; --volume-ids=legacy needs 40",
      async ask(scratch, signal) {
        let longest = 32;
        let seen = "all are taken";
        for (const length of [33, 40]) {
          const wholeSlot = `${scratch.name}-slot-`.padEnd(length, "x");
          const said = await scratch.add(
            { wholeSlot, file: scratch.beside(`slot-${length}`), size: scratch.size },
            signal,
          );
          if (!said.done) {
            seen = `${length}: ${quoted(said)}`;
            break;
          }
          longest = length;
        }
        return { value: longest, seen };
      },
    },
    {
      name: "uniqueSlots",
      asks: "a second disk with the same slot is refused",
      expects: "true",
      ask: (scratch, signal) => isRefused(scratch.add({ file: scratch.beside("second"), size: scratch.size }, signal)),
    },
    {
      name: "uniqueFiles",
      asks: "a second disk with the same file is refused",
      expects: "true",
      ask: (scratch, signal) => isRefused(scratch.add({ slot: "-second", file: scratch.file }, signal)),
    },
    {
      name: "uniqueNqns",
      asks: "a second export with the same NQN is refused",
      expects: "true",
      async ask(scratch, signal) {
        const nqn = nqnOf(scratch);
        await scratch.must(exported(scratch, nqn), signal);
        return await isRefused(
          scratch.add({ slot: "-second", file: scratch.beside("second"), size: scratch.size, nqn }, signal),
        );
      },
    },
    {
      name: "renamesExports",
      asks: "the NQN of an export that is on can be changed",
      expects: "false; true does no harm",
      async ask(scratch, signal) {
        await scratch.must(exported(scratch, nqnOf(scratch)), signal);
        const said = await scratch.set(ros`nvme-tcp-server-nqn=${`${nqnOf(scratch)}.g1`}`, signal);
        if (!said.done) return { value: false, seen: quoted(said) };
        const { nqn } = await scratch.main(signal);
        return { value: nqn.endsWith(".g1"), seen: nqn };
      },
    },
  ];
}

/** The NQN that the main disk is exported under. */
export function nqnOf(scratch: Scratch): string {
  return nqnPrefix + scratch.digits;
}

/** What exports the main disk. */
export function exported(scratch: Scratch, nqn: string) {
  const shown = ros`nvme-tcp-server-port=${scratch.port} nvme-tcp-server-nqn=${nqn} nvme-tcp-export=yes`;
  return ros`/disk/set [/disk/find where ${scratch.ours(scratch.name)}] ${shown}`;
}

function ofFiles(): Question[] {
  return [
    {
      name: "rowLeavesFile",
      asks: "removing a disk leaves its file",
      expects: "true",
      async ask(scratch, signal) {
        const file = scratch.beside("left");
        await orphan(scratch, file, signal);
        const isThere = await scratch.isFile(file, signal);
        return { value: isThere, seen: isThere ? "the file is there" : "the file is gone" };
      },
    },
    {
      name: "sizeOnExistingFile",
      asks: "an add with a size takes an existing file over",
      expects: "false",
      async ask(scratch, signal) {
        const file = scratch.beside("taken");
        await orphan(scratch, file, signal);
        const said = await scratch.add({ slot: "-taken", file, size: scratch.size }, signal);
        return said.done ? { value: true, seen: "taken" } : { value: false, seen: quoted(said) };
      },
    },
    {
      name: "largerThanPool",
      asks: "a file of twice the pool's size is taken",
      expects: "false",
      async ask(scratch, signal) {
        const before = await scratch.poolNow(signal);
        const second = await scratch.add(
          { slot: "-second", file: scratch.beside("second"), size: scratch.size },
          signal,
        );
        if (!second.done) throw new FailedPrecondition(`a second disk was not made: ${quoted(second)}`);
        const fell = before.free - (await scratch.poolNow(signal)).free;
        // A RouterOS that writes a file whole would fill the pool under everybody's volumes.
        if (scratch.preallocated || 2n * fell >= scratch.size) {
          throw new FailedPrecondition("files take their size at once here, or others write: the pool might be filled");
        }
        const size = 2n * before.size;
        const said = await scratch.add({ slot: "-large", file: scratch.beside("large"), size }, signal);
        return said.done ? { value: true, seen: "taken" } : { value: false, seen: quoted(said) };
      },
    },
    {
      name: "removesUsedFiles",
      asks: "/file/remove removes a file that a disk uses",
      expects: "false",
      async ask(scratch, signal) {
        const file = scratch.beside("used");
        const added = await scratch.add({ slot: "-used", file, size: scratch.size }, signal);
        if (!added.done) throw new FailedPrecondition(`a second disk was not made: ${quoted(added)}`);
        const said = await scratch.run(ros`/file/remove [/file/find where name=${file}]`, signal);
        const isThere = await scratch.isFile(file, signal);
        return { value: !isThere, seen: said.done ? "done" : quoted(said) };
      },
    },
  ];
}

/** Makes a disk and removes its row. */
async function orphan(scratch: Scratch, file: string, signal: AbortSignal): Promise<void> {
  const slot = "-orphan";
  const added = await scratch.add({ slot, file, size: scratch.size }, signal);
  if (!added.done) throw new FailedPrecondition(`a second disk was not made: ${quoted(added)}`);
  await scratch.must(ros`/disk/remove [/disk/find where ${scratch.ours(scratch.name + slot)}]`, signal);
}
