import { denoTests } from "../lab/deno_tests.ts";
import { image, whyNoImage } from "../lab/image.ts";
import type { Layer } from "../lab/layer.ts";

/** What people install, as far as one machine shows it. */
export const imageLayer: Layer = {
  name: "image",
  about: "the image, built without a registry, and all that is in it",
  needs: whyNoImage,
  async run() {
    // Outside of the time that the tests have.
    await image();
    return await denoTests("tests/image");
  },
};
