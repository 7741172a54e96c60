/** Something that goes wrong on demand. */
export interface FaultRule {
  /**
   * `cut`: the connection is reset, with no exit status sent. `hang`: there is never an answer. `error`: the command
   * fails with `text`.
   */
  action: "cut" | "hang" | "error";
  /**
   * `before`: nothing of the line has run. `middle`: as the command begins; it goes on behind the cut if
   * `Guesses.outlivesChannel`. `after`: the line has run, its answer is not sent. `answer`: half of the answer is sent.
   * Default `before`; an `error` is always in the middle.
   */
  when?: Moment;
  /** Only lines (in the middle: commands) with this command: `disk add`, `add`, `:put`. Default: any. */
  command?: string;
  /** Only commands that were given this: `nvme-tcp-export=no`, or `nvme-tcp-export` with any value. In the middle only. */
  argument?: string;
  /** How often. Default 1. */
  times?: number;
  /** Of an `error`: what RouterOS says. */
  text?: string;
}

export type Moment = "before" | "middle" | "after" | "answer";

/** The faults that are waiting for their moment. */
export class Faults {
  readonly #rules: Required<FaultRule>[] = [];
  readonly #reboot: (milliseconds: number) => Promise<void>;

  constructor(reboot: (milliseconds: number) => Promise<void>, rules: readonly FaultRule[] = []) {
    this.#reboot = reboot;
    for (const rule of rules) this.add(rule);
  }

  /** Adds a fault. @throws {TypeError} when it is none */
  add(rule: FaultRule): void {
    const whole = { when: "before" as const, command: "", argument: "", times: 1, text: "failure: busy", ...rule };
    if (whole.action === "error") whole.when = "middle";
    const isKnown = ["cut", "hang", "error"].includes(whole.action) &&
      ["before", "middle", "after", "answer"].includes(whole.when);
    if (!isKnown) throw new TypeError("a fault is cut, hang or error, before, in the middle, after or in the answer");
    if (whole.argument !== "" && whole.when !== "middle") {
      throw new TypeError("an argument is known in the middle only");
    }
    this.#rules.push(whole);
  }

  /** Cuts the connection of the next line with the command. */
  cut(when: Moment, command = "", times = 1): void {
    this.add({ action: "cut", when, command, times });
  }
  /** Leaves the next line with the command without an answer. */
  hang(command = "", times = 1): void {
    this.add({ action: "hang", command, times });
  }
  /** Makes the next command fail with this text. */
  error(text: string, command = "", times = 1): void {
    this.add({ action: "error", text, command, times });
  }
  noSpace(command = "disk add", times = 1): void {
    this.error("failure: not enough space", command, times);
  }
  busy(command = "", times = 1): void {
    this.error("failure: could not unmount, stop using it first", command, times);
  }
  /** Goes down for so long: connections are reset, what runs is lost, exports are gone. Resolves when it is up again. */
  reboot(milliseconds: number): Promise<void> {
    return this.#reboot(milliseconds);
  }
  /** Forgets what has not happened yet. */
  clear(): void {
    this.#rules.length = 0;
  }
  /** What has not happened yet. */
  get waiting(): readonly FaultRule[] {
    return this.#rules;
  }

  /** The fault for this moment, if one waits for it. @param given what the command was given, as far as it is known */
  take(when: Moment, commands: readonly string[], given: Readonly<Record<string, string>> = {}): FaultRule | undefined {
    const written = Object.entries(given).flatMap(([name, value]) => [name, `${name}=${value}`]);
    const fits = ({ command, argument }: Required<FaultRule>) =>
      (command === "" || commands.some((name) => name === command || name.endsWith(` ${command}`))) &&
      (argument === "" || written.includes(argument));
    const at = this.#rules.findIndex((rule) => rule.when === when && fits(rule));
    const rule = this.#rules[at];
    if (rule && --rule.times <= 0) this.#rules.splice(at, 1);
    return rule;
  }
}
