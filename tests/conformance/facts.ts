import { createRegistry, fromBinary, type JsonObject, type JsonValue, toJson } from "@bufbuild/protobuf";
import { type FileDescriptorProto, FileDescriptorProtoSchema } from "@bufbuild/protobuf/wkt";
import { file_csi } from "../../proto/gen/csi_pb.ts";

const registry = createRegistry(file_csi);

/**
 * All that a descriptor says, one fact an entry: `message CreateVolumeRequest.field name.number` → `1`. Things are named by
 * their own names instead of their places in a list, so that two descriptors can be compared whatever their order is.
 */
export function factsOf(file: FileDescriptorProto): Map<string, string> {
  const facts = new Map<string, string>();
  const json = toJson(FileDescriptorProtoSchema, file, { registry }) as JsonObject;
  // Where the file lies, and its comments, are nobody's business.
  for (const other of ["name", "sourceCodeInfo"]) delete json[other];
  collect(facts, "", json);
  return facts;
}

/** {@linkcode factsOf} of a descriptor in its binary form. */
export function factsOfBinary(bytes: Uint8Array): Map<string, string> {
  return factsOf(fromBinary(FileDescriptorProtoSchema, bytes, { readUnknownFields: true }));
}

function collect(facts: Map<string, string>, path: string, value: JsonValue): void {
  if (Array.isArray(value)) {
    value.forEach((item, index) => collect(facts, `${path}[${nameOf(item) ?? index}]`, item));
  } else if (typeof value === "object" && value !== null) {
    for (const [key, item] of Object.entries(value)) collect(facts, path === "" ? key : `${path}.${key}`, item);
  } else {
    facts.set(path, String(value));
  }
}

function nameOf(item: JsonValue): string | undefined {
  if (typeof item !== "object" || item === null || Array.isArray(item)) return undefined;
  // Two extensions may have one name: of what they extend.
  if (typeof item.extendee === "string") return `${item.extendee} ${item.name}`;
  return typeof item.name === "string" ? item.name : undefined;
}

/** What the second says otherwise than the first, one sentence a difference. */
export function differences(official: Map<string, string>, ours: Map<string, string>): string[] {
  const paths = [...new Set([...official.keys(), ...ours.keys()])].sort();
  return paths
    .filter((path) => official.get(path) !== ours.get(path))
    .map((path) => `${path}: ${official.get(path) ?? "(absent)"} -> ${ours.get(path) ?? "(absent)"}`);
}
