import { TextLineStream } from "../../../src/runtime/lines.ts";

interface Running {
  path: string;
  /** Sends what there is and ends the stream. */
  end: (line: string) => void;
}

/** The watches that run through a proxy. */
export class WatchStreams {
  readonly #running = new Set<Running>();
  #thawed: PromiseWithResolvers<void> | undefined;

  /** Lets a watch's lines through, each as it comes, unless all is frozen. */
  through(body: ReadableStream<Uint8Array<ArrayBuffer>>, path: string): ReadableStream<Uint8Array> {
    let running: Running | undefined;
    const forget = () => void (running && this.#running.delete(running));
    const gate = new TransformStream<string, Uint8Array>({
      start: (controller) => {
        running = { path, end: (line) => (controller.enqueue(encoded(line)), controller.terminate()) };
        this.#running.add(running);
      },
      transform: async (line, controller) => {
        await this.#thawed?.promise;
        controller.enqueue(encoded(`${line}\n`));
      },
      flush: async () => {
        await this.#thawed?.promise;
        forget();
      },
      cancel: forget,
    });
    return body.pipeThrough(new TextDecoderStream()).pipeThrough(new TextLineStream()).pipeThrough(gate);
  }

  /** Ends the watches of some paths with a last line. @returns how many there were */
  end(line: string, match: (path: string) => boolean): number {
    const ended = [...this.#running].filter(({ path }) => match(path));
    for (const each of ended) {
      this.#running.delete(each);
      each.end(line);
    }
    return ended.length;
  }

  freeze(): void {
    this.#thawed ??= Promise.withResolvers();
  }

  thaw(): void {
    this.#thawed?.resolve();
    this.#thawed = undefined;
  }
}

function encoded(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}
