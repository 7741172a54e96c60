import { createHash } from "node:crypto";

/** `short`: at most 32 characters, which every RouterOS takes. `legacy`: ids that the Go driver can still handle. */
export type IdForm = "short" | "legacy";

const uuidName = /^pvc-([0-9a-f]{8})-([0-9a-f]{4})-([0-9a-f]{4})-([0-9a-f]{4})-([0-9a-f]{12})$/;

/** Volume id, which is also the slot, for the name that the provisioner gives: the same name, the same id, for ever. */
export function volumeIdOf(name: string, form: IdForm): string {
  const uuid = uuidName.exec(name);
  if (uuid && form === "legacy") return name;
  const digits = uuid ? uuid.slice(1).join("") : createHash("sha256").update(name).digest("hex");
  if (form === "short") return `pvc-${digits.slice(0, 28)}`;
  return `pvc-${[[0, 8], [8, 12], [12, 16], [16, 20], [20, 32]].map(([a, b]) => digits.slice(a, b)).join("-")}`;
}

/** One key for all ids that a volume may have: those of both forms of one name agree in their digits. */
export function keyOf(id: string): string {
  return uuidName.test(id) ? volumeIdOf(id, "short") : id;
}

/** The id that the other form gives for the same name: a volume may have been made under it. */
export function otherIdOf(name: string, form: IdForm): string {
  return volumeIdOf(name, form === "short" ? "legacy" : "short");
}
