import { assertEquals } from "@std/assert";
import { pages } from "./pages.ts";

Deno.test("the reference pages are what the code says: run `deno task docs` after changing a setting", async () => {
  for (const { path, text } of pages()) assertEquals(await Deno.readTextFile(path), text, path.pathname);
});
