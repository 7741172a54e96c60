import { FailedPrecondition, messageOf } from "../runtime/errors.ts";
import { type Host, hostId, hostNqn } from "./host_nqn.ts";

/** A small file that keeps the identity that was derived for this node. */
export class KeptHost {
  readonly #path: string;

  constructor(path: string) {
    this.#path = path;
  }

  /**
   * What was kept; undefined when there is no such file.
   * @throws {FailedPrecondition} when it cannot be read or understood: another identity must not take its place
   */
  async read(): Promise<Host | undefined> {
    try {
      const { nqn, id } = JSON.parse(await Deno.readTextFile(this.#path)) as Record<string, unknown>;
      return { nqn: hostNqn(String(nqn)), id: hostId(String(id)) };
    } catch (error) {
      if (error instanceof Deno.errors.NotFound) return undefined;
      throw this.#unusable("read", error);
    }
  }

  /**
   * Writes it so that after a crash it is there whole or not at all.
   * @throws {FailedPrecondition} when that is not possible
   */
  async write({ nqn, id }: Host): Promise<void> {
    const folder = this.#path.slice(0, this.#path.lastIndexOf("/"));
    try {
      await Deno.mkdir(folder, { recursive: true, mode: 0o700 });
      {
        using file = await Deno.open(`${this.#path}.new`, { write: true, create: true, truncate: true, mode: 0o600 });
        const bytes = new TextEncoder().encode(`${JSON.stringify({ nqn, id })}\n`);
        for (let written = 0; written < bytes.length;) written += await file.write(bytes.subarray(written));
        await file.sync();
      }
      await Deno.rename(`${this.#path}.new`, this.#path);
      using opened = await Deno.open(folder, { read: true });
      await opened.sync();
    } catch (error) {
      throw this.#unusable("written", error);
    }
  }

  #unusable(what: string, cause: unknown): FailedPrecondition {
    return new FailedPrecondition(
      `${this.#path}, which keeps this node's NVMe host identity, cannot be ${what}: ${
        messageOf(cause)
      }. Repair or remove ` +
        "it, or set --host-nqn",
      { cause },
    );
  }
}
