import { assert, assertEquals, assertIsError, assertThrows } from "@std/assert";
import fc from "fast-check";
import { InvalidArgument } from "../runtime/errors.ts";
import { isVolumeId, nqnOf, parseManagedNqn, validateManagedPrefix } from "./nqn.ts";

const prefix = "nqn.2000-02.com.mikrotik:pvc-";
const uuid = "0a1b2c3d-4e5f-6789-abcd-ef0123456789";

const hex = (length: number) =>
  fc.array(fc.constantFrom(..."0123456789abcdef"), { minLength: length, maxLength: length }).map((all) => all.join(""));
const volumeIds = fc.oneof(
  hex(28).map((digits) => `pvc-${digits}`),
  fc.uuid().map((id) => `pvc-${id.toLowerCase()}`),
);

Deno.test("validateManagedPrefix() takes what clusters use", () => {
  for (const good of [prefix, "nqn.2000-02.com.mikrotik:pvc", "nqn.2014-08.org.example:cluster:prod-"]) {
    assertEquals(validateManagedPrefix(good), good);
  }
});

Deno.test("validateManagedPrefix() refuses what could match a volume that is not ours, and says how to put it right", () => {
  const bad: [string, string][] = [
    ["", "not set"],
    ["iqn.2000-02.com.mikrotik:pvc-", "begin with 'nqn.'"],
    ["nqn.2000-02.com.mikrotik", "colon"],
    ["nqn.2000-02.com.mikrotik:", "three characters"],
    ["nqn.2000-02.com.mikrotik:pv", "three characters"],
    ["nqn.2000-02.com.mikrotik:nix", "diskless"],
    ["nqn.2000-02.com.mikrotik:nixos-", "diskless"],
    ["nqn.2000-02.com.mikrotik:nixos-var", "diskless"],
    ["nqn.2000-02.com.mikrotik:NixOS-", "diskless"],
    ["nqn.2000-02.com.mikrotik:pvc -", "printable"],
    ['nqn.2000-02.com.mikrotik:"pvc-', "quotes"],
    ["nqn.2000-02.com.mikrotik:pvc-\n", "printable"],
    ["nqn.2000-02.com.mikrotik:pvç-", "printable"],
    [`nqn.2000-02.com.mikrotik:${"p".repeat(160)}-`, "room"],
  ];
  for (const [value, why] of bad) {
    const error = assertThrows(() => validateManagedPrefix(value), InvalidArgument, why);
    assertIsError(error, InvalidArgument, "CSI_MANAGED_NQN_PREFIX");
  }
});

Deno.test("parseManagedNqn() reads back what nqnOf() makes, within 223 bytes under the longest prefix", () => {
  const longest = validateManagedPrefix(`nqn.2000-02.com.mikrotik:${"p".repeat(176 - 25)}`);
  fc.assert(
    fc.property(fc.constantFrom(prefix, longest), volumeIds, fc.nat(999_999_999), (head, volumeId, generation) => {
      const nqn = nqnOf(head, volumeId, generation);
      assert(nqn.length <= 223);
      assertEquals(parseManagedNqn(head, nqn), { volumeId, generation });
    }),
  );
});

Deno.test("parseManagedNqn() takes no name whose parts do not make the same name again", () => {
  const fragments = fc.array(
    fc.constantFrom(
      prefix,
      "nqn.2000-02.com.mikrotik:nixos-",
      uuid,
      uuid.toUpperCase(),
      "0".repeat(28),
      ".g",
      "0",
      "12",
      "\n",
      "-",
      "pvc-",
    ),
    { maxLength: 5 },
  ).map((parts) => parts.join(""));
  fc.assert(fc.property(fc.oneof(fragments, fc.string(), fc.string().map((tail) => prefix + tail)), (nqn) => {
    const parsed = parseManagedNqn(prefix, nqn);
    if (!parsed) return;
    assertEquals(nqnOf(prefix, parsed.volumeId, parsed.generation), nqn);
  }));
});

Deno.test("parseManagedNqn() refuses foreign and malformed names", () => {
  for (
    const nqn of [
      "nqn.2000-02.com.mikrotik:nixos-var",
      `nqn.2000-02.com.mikrotik:nixos-${uuid}`,
      `nqn.2000-02.com.other:pvc-${uuid}`,
      `${prefix}${uuid.toUpperCase()}`,
      `${prefix}${uuid}.g0`,
      `${prefix}${uuid}.g01`,
      `${prefix}${uuid}.g1234567890`,
      `${prefix}${uuid}.g1.g2`,
      `${prefix}${uuid}\n`,
      `${prefix}${uuid}-clone`,
      `${prefix}${"0".repeat(27)}`,
      `${prefix}${"0".repeat(29)}`,
      prefix,
      "",
    ]
  ) assertEquals(parseManagedNqn(prefix, nqn), undefined, nqn);
});

Deno.test("nqnOf() refuses ids and generations that are not of our form", () => {
  for (const id of ["storage-pool", "nixos-var", "pvc-", `PVC-${uuid}`, `pvc-${uuid}\n`, `pvc-${uuid}/..`]) {
    assertEquals(isVolumeId(id), false);
    assertThrows(() => nqnOf(prefix, id), InvalidArgument, "no volume of this driver");
  }
  for (const generation of [-1, 1.5, NaN, 1e9]) {
    assertThrows(() => nqnOf(prefix, `pvc-${uuid}`, generation), InvalidArgument, "generation");
  }
});
