import { assertEquals } from "@std/assert";
import { replacements } from "./go_module.ts";

const byFolder = { Old: { Path: "k8s.io/api" }, New: { Path: "./staging/src/k8s.io/api" } };
const byVersion = { Old: { Path: "example.org/a" }, New: { Path: "example.org/b", Version: "v1.2.3" } };

Deno.test("replacements() gives folders of the repository the version that is named for them", () => {
  assertEquals(replacements({ Replace: [byFolder, byVersion] }, "v0.34.2"), [
    "k8s.io/api=k8s.io/api@v0.34.2",
    "example.org/a=example.org/b@v1.2.3",
  ]);
});

Deno.test("replacements() leaves folders out when no version is named, and takes a file without any", () => {
  assertEquals(replacements({ Replace: [byFolder, byVersion] }), ["example.org/a=example.org/b@v1.2.3"]);
  assertEquals(replacements({ Replace: null }), []);
});
