import type { Config } from "../config_read.ts";
import { ros } from "../rds/script.ts";
import { abortable, Deadline } from "../runtime/deadline.ts";
import { FailedPrecondition, messageOf } from "../runtime/errors.ts";
import { sshOptions } from "./controller_world.ts";
import { ProbeConsole, type Said } from "./probe_console.ts";
import { type Answer, type Patience, patience, type Question, questions, quoted } from "./questions.ts";
import { Scratch } from "./scratch.ts";

/** What became of a question: an answer, or why there is none. */
export interface Asked {
  name: string;
  asks: string;
  expects: string;
  answer: Answer | undefined;
  /** Why it was not answered. */
  why: string | undefined;
  milliseconds: number;
}

/** What a probe found out. */
export interface Probed {
  /** Of RouterOS, and what it runs on. */
  device: Readonly<Record<"version" | "board" | "architecture", string>>;
  asked: Asked[];
  /** What of the scratch disk is left, and how to remove it; undefined: nothing. */
  left: string | undefined;
}

/** How a probe goes about it. */
export interface ProbeOptions {
  signal: AbortSignal;
  patience?: Patience;
  /** Of those that need no connected node; all by default. */
  questions?: readonly Question[];
  /** What needs a node that is connected, and why this machine is none. */
  connected?: { questions: readonly Question[]; why: string | undefined };
  /** What is not asked at all. */
  leftOut?: readonly (Named & { why: string })[];
  /** Of the scratch disk's exports; 4420 by default. */
  port?: number;
}

/** Milliseconds for a question. */
const limit = 180_000;

/**
 * Asks a RouterOS everything, with a scratch disk that is removed whatever happens.
 * @throws what keeps it from beginning; nothing is left then
 */
export async function probe(config: Config, options: ProbeOptions): Promise<Probed> {
  const {
    signal,
    patience: wait = patience,
    questions: plain = questions(wait),
    connected = { questions: [], why: undefined },
    leftOut = [],
    port,
  } = options;
  using console = new ProbeConsole(sshOptions(config), config.rdsCreateDeadline);
  const { rdsVolumeBasePath: base, scratchSize: size } = config;
  const scratch = new Scratch(console, {
    base,
    size,
    late: wait.late,
    cleaning: wait.cleaning,
    ...(port === undefined ? {} : { port }),
  });
  const device = await deviceOf(console, signal);
  await scratch.requireFree(signal);
  const probed: Probed = { device, asked: [], left: undefined };
  let failure: unknown;
  try {
    probed.asked.push(...await begin(scratch, signal));
    for (const question of plain) probed.asked.push(await ask(question, scratch, signal));
    for (const question of connected.questions) {
      const { why } = connected;
      probed.asked.push(why === undefined ? await ask(question, scratch, signal) : notAsked(question, why));
    }
    for (const question of leftOut) probed.asked.push(notAsked(question, question.why));
  } catch (error) {
    failure = error;
  }
  await scratch.remove().catch((error) => probed.left = messageOf(error));
  // What is left must be told, whatever else went wrong.
  if (failure !== undefined && probed.left === undefined) throw failure;
  return probed;
}

async function deviceOf(console: ProbeConsole, signal: AbortSignal): Promise<Probed["device"]> {
  const scripts = [
    ros`:put [/system/resource/get version]`,
    ros`:put [/system/resource/get board-name]`,
    ros`:put [/system/resource/get architecture-name]`,
  ];
  const said: Said[] = [];
  for (const script of scripts) said.push(await console.run(script, signal));
  const [version, board, architecture] = said.map(({ done, text }) => done ? text.trim() : "unknown");
  return { version: version ?? "", board: board ?? "", architecture: architecture ?? "" };
}

/** What making the main disk answers. */
export const firstQuestions: readonly [Named, Named] = [
  { name: "makesFolders", asks: "an add makes the folders of its file", expects: "true" },
  { name: "preallocated", asks: "files take their whole size at once", expects: "false" },
];

/** Makes the main disk, which answers the first questions. @throws {FailedPrecondition} when no place is taken */
async function begin(scratch: Scratch, signal: AbortSignal): Promise<Asked[]> {
  const began = performance.now();
  const { free } = await scratch.poolNow(signal);
  const refusals: string[] = [];
  for (const place of scratch.places) {
    scratch.file = place;
    const said = await scratch.add({ file: place, size: scratch.size }, signal);
    if (!said.done) {
      refusals.push(quoted(said));
      continue;
    }
    const milliseconds = Math.round(performance.now() - began);
    const fell = free - (await scratch.poolNow(signal)).free;
    const [first] = refusals;
    const made: Answer = { value: first === undefined, seen: first ?? `/${place}` };
    scratch.preallocated = 2n * fell >= scratch.size;
    const taken: Answer = { value: scratch.preallocated, seen: `free fell by ${fell} of ${scratch.size} bytes` };
    return firstQuestions.map((question, at) => answered(question, at === 0 ? made : taken, milliseconds));
  }
  throw new FailedPrecondition(`no scratch disk could be made: ${refusals.join("; ")}`);
}

async function ask(question: Question, scratch: Scratch, parent: AbortSignal): Promise<Asked> {
  if (parent.aborted) return notAsked(question, "it was interrupted");
  const began = performance.now();
  using deadline = new Deadline(limit, `the question '${question.name}'`, parent);
  const { signal } = deadline;
  const milliseconds = () => Math.round(performance.now() - began);
  try {
    const answer = await abortable(question.ask(scratch, signal), signal);
    const took = milliseconds();
    await scratch.tidy(parent);
    return answered(question, answer, took);
  } catch (error) {
    if (!parent.aborted) await scratch.tidy(parent).catch(() => {});
    return { ...notAsked(question, messageOf(error)), milliseconds: milliseconds() };
  }
}

type Named = Pick<Question, "name" | "asks" | "expects">;

function answered({ name, asks, expects }: Named, answer: Answer, milliseconds: number): Asked {
  return { name, asks, expects, answer, why: undefined, milliseconds };
}

/** A question that was left out. */
function notAsked({ name, asks, expects }: Named, why: string): Asked {
  return { name, asks, expects, answer: undefined, why, milliseconds: 0 };
}
