import { once } from "node:events";
import { type AddressInfo, createServer, type Server, type Socket } from "node:net";
import ssh2 from "ssh2";
import { isAuthorized } from "./keys.ts";

/** What a line has put out on either stream, and how it ended. */
export interface Answer {
  text: string;
  errors: string;
  status: number;
}

/** A command line that came over a channel. */
export interface Exec {
  line: string;
  /** Aborts when the channel or its connection has ended. */
  signal: AbortSignal;
  /** Sends an answer and its exit status. */
  answer: (answer: Answer) => void;
  /** Sends a part of an answer, then resets the connection. */
  cut: (text?: string) => void;
}

/** What an {@linkcode SshServer} needs. */
export interface SshServerOptions {
  host: string;
  hostKey: string;
  user: string | undefined;
  /** Public keys that may log in now. */
  authorizedKeys: () => readonly string[];
  /** Called for each line; there is no answer until it gives one. */
  exec: (exec: Exec) => void;
}

/** The SSH side: keys, channels without a terminal, one line each. */
export class SshServer {
  readonly #options: SshServerOptions;
  readonly #sockets = new Set<Socket>();
  #server: Server | undefined;

  constructor(options: SshServerOptions) {
    this.#options = options;
  }

  get connections(): number {
    return this.#sockets.size;
  }

  /** Listens; 0 takes a free port. @returns the port */
  async listen(port: number): Promise<number> {
    const server = createServer((socket) => this.#accept(socket));
    server.listen(port, this.#options.host);
    await once(server, "listening");
    this.#server = server;
    return (server.address() as AddressInfo).port;
  }

  /** Stops listening and resets all connections. */
  async close(): Promise<void> {
    const closed = this.#server && once(this.#server, "close");
    this.#server?.close();
    for (const socket of this.#sockets) socket.destroy();
    await closed;
    this.#server = undefined;
  }

  #accept(socket: Socket): void {
    socket.setNoDelay(true);
    this.#sockets.add(socket);
    socket.on("error", () => {});
    socket.on("close", () => this.#sockets.delete(socket));
    // A server of ssh2 for each connection, so that it is known which socket to reset.
    const server = new ssh2.Server({ hostKeys: [this.#options.hostKey] }, (client) => this.#serve(client, socket));
    server.on("error", () => {});
    server.injectSocket(socket);
  }

  #serve(client: ssh2.Connection, socket: Socket): void {
    const channels = new Set<AbortController>();
    socket.once("close", () => channels.forEach((channel) => channel.abort()));
    client.on("error", () => socket.destroy());
    client.on("authentication", (context) => this.#authenticate(context));
    client.on("session", (accept) => {
      accept().on("exec", (acceptExec, _reject, { command }) => {
        const [channel, gone] = [acceptExec(), new AbortController()];
        channels.add(gone);
        channel.once("close", () => {
          channels.delete(gone);
          gone.abort();
        });
        this.#options.exec(execOn(channel, { socket, gone, line: command }));
      });
    });
  }

  #authenticate(context: ssh2.AuthContext): void {
    const { user, authorizedKeys } = this.#options;
    if (context.method !== "publickey") return context.reject(["publickey"]);
    if (user !== undefined && context.username !== user) return context.reject();
    const { algo, data } = context.key;
    const key = ssh2.utils.parseKey(data);
    if (key instanceof Error || !isAuthorized(authorizedKeys(), algo, data)) return context.reject();
    const { blob, signature, hashAlgo } = context;
    const isProven = !signature || (blob && key.verify(blob, signature, hashAlgo) === true);
    return isProven ? context.accept() : context.reject();
  }
}

function execOn(channel: ssh2.ServerChannel, about: { socket: Socket; gone: AbortController; line: string }): Exec {
  const { socket, gone, line } = about;
  channel.on("error", () => {});
  channel.resume();
  return {
    line,
    signal: gone.signal,
    answer({ text, errors, status }) {
      if (gone.signal.aborted) return;
      channel.write(text);
      if (errors !== "") channel.stderr.write(errors);
      channel.exit(status);
      channel.end();
    },
    cut(text = "") {
      gone.abort();
      if (text === "") socket.destroy();
      else channel.write(text, () => socket.end());
    },
  };
}
