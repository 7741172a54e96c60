import { withoutSentinel } from "../rds/connection.ts";
import type { Script } from "../rds/script.ts";
import { connectSsh, type Login, type SshOptions } from "../rds/ssh.ts";
import { Deadline } from "../runtime/deadline.ts";

/** What became of a script. */
export interface Said {
  /** Whether it ran to its end. */
  done: boolean;
  /** What it put out; where it failed, the text that tells why is at its end. */
  text: string;
}

/** RouterOS' console, for one script after the other, and for what the driver itself never needs of it. */
export class ProbeConsole implements Disposable {
  readonly #options: SshOptions;
  readonly #deadline: number;
  #login: { login: Login; ended: boolean } | undefined;

  /** @param deadline milliseconds for each script */
  constructor(options: SshOptions, deadline: number) {
    this.#options = options;
    this.#deadline = deadline;
  }

  /** Runs a script. @throws {Unreachable} or {@linkcode TimedOut} when its answer is lost: what it did is not known */
  async run(script: Script, signal: AbortSignal): Promise<Said> {
    using deadline = new Deadline(this.#deadline, "RouterOS", signal);
    const sentinel = `ok-${crypto.randomUUID().slice(0, 8)}`;
    const login = await this.#ready(deadline.signal);
    const text = await login.exec(`${script.text}; :put "${sentinel}"`, deadline.signal);
    const answer = withoutSentinel(text, sentinel);
    return answer === undefined ? { done: false, text: text.trim() } : { done: true, text: answer };
  }

  /** A login of its own, for what may spoil one. Whoever asks closes it. */
  another(signal: AbortSignal): Promise<Login> {
    return connectSsh(this.#options, signal);
  }

  [Symbol.dispose](): void {
    this.#login?.login.close();
  }

  async #ready(signal: AbortSignal): Promise<Login> {
    if (this.#login && !this.#login.ended) return this.#login.login;
    const login = await connectSsh(this.#options, signal);
    const kept = { login, ended: false };
    this.#login = kept;
    login.closed.then(() => kept.ended = true);
    return login;
  }
}
