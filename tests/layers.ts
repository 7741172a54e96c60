import { chart } from "./chart/layer.ts";
import { cluster } from "./cluster/layer.ts";
import { imageLayer } from "./image/layer.ts";
import { kubernetes } from "./kubernetes/kubernetes.ts";
import { needPrograms } from "./lab/debian.ts";
import { denoTests } from "./lab/deno_tests.ts";
import { whyNoGo } from "./lab/go_tools.ts";
import type { Layer } from "./lab/layer.ts";
import { nvme } from "./nvme/layer.ts";
import { sanity } from "./sanity/sanity.ts";

/** Programs of the node's path, by Debian's packages. */
const nodeTools = {
  "mkfs.ext4": "e2fsprogs",
  "mkfs.xfs": "xfsprogs",
  "losetup": "util-linux",
  "mount": "mount",
  "blkid": "util-linux",
  "cmp": "diffutils",
  "ssh-keygen": "openssh-client",
};

const unit: Layer = {
  name: "unit",
  about: "the pieces by themselves, with loop devices where root has them",
  async needs() {
    // What is still missing is left out test by test.
    await needPrograms(nodeTools);
    return undefined;
  },
  run: () =>
    denoTests("src", "tests/docs", "tests/lab", "tests/lint", "tests/sanity", "tests/permissions", "tests/program"),
};

const conformance: Layer = {
  name: "conformance",
  about: "proto/csi.proto and what is generated from it, against the official descriptor",
  needs: async () => await whyNoGo() ?? await needPrograms({ protoc: "protobuf-compiler" }),
  run: () => denoTests("tests/conformance"),
};

/** The layers that all must pass, the quick ones first. */
export const layers: readonly Layer[] = [unit, conformance, sanity, imageLayer, chart, kubernetes, nvme];

/** Layers that are run when they are named: not all of them was seen to pass yet. */
export const named: readonly Layer[] = [cluster];
