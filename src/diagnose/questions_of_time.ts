import { ros } from "../rds/script.ts";
import { pause } from "../runtime/deadline.ts";
import { FailedPrecondition, messageOf } from "../runtime/errors.ts";
import type { Answer, Patience, Question } from "./questions.ts";
import type { Scratch } from "./scratch.ts";

/** What is asked of channels: it takes time, and logins of its own. */
export function ofTime(wait: Patience): Question[] {
  return [
    {
      name: "outlivesChannel",
      asks: "a command goes on when its channel is closed",
      expects: "true",
      ask: (scratch, signal) => outlives(scratch, wait, signal),
    },
    {
      name: "maxChannels",
      asks: "channels at once (2, 5, 10 and 20 are tried)",
      expects: "4 or more",
      ask: (scratch, signal) => channels(scratch, wait, signal),
    },
  ];
}

async function outlives(scratch: Scratch, wait: Patience, signal: AbortSignal): Promise<Answer> {
  const login = await scratch.console.another(signal);
  const leaving = new AbortController();
  const leave = () => leaving.abort(new Error("left on purpose"));
  signal.addEventListener("abort", leave, { once: true });
  const began = performance.now();
  try {
    const adding = scratch.adding({ slot: "-late", file: scratch.beside("late"), size: scratch.size });
    let isAnswered = false;
    const answer = login.execApart(adding.text, leaving.signal).then(() => isAnswered = true, () => {});
    // On the same connection: when this is answered, the add has arrived.
    await login.execApart(ros`:put "here"`.text, signal);
    leave();
    await answer;
    signal.throwIfAborted();
    if (isAnswered) {
      throw new FailedPrecondition(
        `an add takes ${Math.round(performance.now() - began)} ms here, which is too quick to be cut off`,
      );
    }
    scratch.expect(2 * wait.late);
  } finally {
    signal.removeEventListener("abort", leave);
    login.close();
  }
  while (performance.now() - began < wait.late) {
    const [row] = await scratch.rows(scratch.ours(`${scratch.name}-late`), signal);
    if (row) {
      scratch.settled();
      return { value: true, seen: `the disk was there ${Math.round(performance.now() - began)} ms after the add` };
    }
    await pause(Math.min(500, wait.late / 5), signal);
  }
  return { value: false, seen: `no disk within ${wait.late / 1000} s` };
}

/** A login of its own: channels that are never answered stay with it. */
async function channels(scratch: Scratch, wait: Patience, signal: AbortSignal): Promise<Answer> {
  const seen: string[] = [];
  let most = 0;
  for (const count of [2, 5, 10, 20]) {
    const login = await scratch.console.another(signal);
    const limit = AbortSignal.any([signal, AbortSignal.timeout(wait.channel)]);
    try {
      const lines = Array.from(
        { length: count },
        () => login.execApart(ros`:delay ${wait.held}; :put "here"`.text, limit),
      );
      const answers = await Promise.all(
        lines.map((line) => line.then(({ stdout }) => /here/.test(stdout), () => false)),
      );
      signal.throwIfAborted();
      const answered = answers.filter((each) => each).length;
      seen.push(`${answered} of ${count}`);
      most = Math.max(most, answered);
      if (answered < count) break;
    } catch (error) {
      signal.throwIfAborted();
      seen.push(`${count}: ${messageOf(error)}`);
      break;
    } finally {
      login.close();
    }
  }
  return { value: most, seen: `answered: ${seen.join(", ")}` };
}
