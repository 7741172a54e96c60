import { assertEquals } from "@std/assert";
import type { AttachmentHere } from "./cluster.ts";
import { permissionBy } from "./dead_sessions.ts";

const prefix = "nqn.2000-02.com.mikrotik:pvc-";
const id = "0".repeat(28);
const volumeId = `pvc-${id}`;

function attachment(nqn: string | undefined, others: Partial<AttachmentHere> = {}): AttachmentHere {
  return { volumeId, nqn, attached: true, deleting: false, ...others };
}

Deno.test("permissionBy() lets a session go that is not attached here, or only as a newer generation", () => {
  const cases: [AttachmentHere[], generation: number, ReturnType<typeof permissionBy>][] = [
    [[], 0, "detached"],
    [[attachment(`${prefix}${"1".repeat(28)}`, { volumeId: `pvc-${"1".repeat(28)}` })], 0, "detached"],
    [[attachment(prefix + id)], 0, undefined],
    [[attachment(prefix + id, { deleting: true })], 0, undefined],
    [[attachment(undefined, { attached: false })], 0, undefined],
    [[attachment(`${prefix}${id}.g1`)], 0, "old generation"],
    [[attachment(`${prefix}${id}.g10`)], 9, "old generation"],
    [[attachment(`${prefix}${id}.g1`)], 1, undefined],
    [[attachment(`${prefix}${id}.g1`)], 2, undefined], // What the node has is newer than what it was told.
    [[attachment(`${prefix}${id}.g1`), attachment(prefix + id)], 0, undefined],
    [[attachment(`${prefix}${id}.g1`), attachment(undefined)], 0, undefined],
    [[attachment(`${prefix}${"1".repeat(28)}.g1`)], 0, undefined],
    [[attachment("nqn.2000-02.com.mikrotik:nixos-var")], 0, undefined],
  ];
  for (const [attachments, generation, expected] of cases) {
    const what = JSON.stringify([attachments, generation]);
    assertEquals(permissionBy(attachments, { volumeId, generation }, prefix), expected, what);
  }
});
