import { assert, assertEquals } from "@std/assert";
import { file_csi } from "../../proto/gen/csi_pb.ts";
import { generate } from "../../proto/generate.ts";
import { fromFileUrl, project } from "../lab/project.ts";
import { differences, factsOf, factsOfBinary } from "./facts.ts";

/** The descriptor in the Go module of the specification's authors, in the version that a module file names. */
async function official(moduleFile = "go.mod"): Promise<Map<string, string>> {
  const { success, stdout, stderr } = await new Deno.Command("go", {
    args: ["run", `-modfile=${moduleFile}`, "."],
    cwd: fromFileUrl(new URL("official", import.meta.url)),
  }).output();
  assert(success, new TextDecoder().decode(stderr));
  return factsOfBinary(stdout);
}

const condition = /volume_condition|VOLUME_CONDITION|VolumeCondition/;
/** Numbers that 1.13 has reserved where 1.12 had the condition: the only things of 1.13 that are not here. */
const reserved = [
  "messageType[ControllerGetVolumeResponse].nestedType[VolumeStatus].reservedRange[0]",
  "messageType[ControllerServiceCapability].nestedType[RPC].enumType[Type].reservedRange[0]",
  "messageType[ListVolumesResponse].nestedType[VolumeStatus].reservedRange[0]",
  "messageType[NodeGetVolumeStatsResponse].reservedRange[0]",
  "messageType[NodeServiceCapability].nestedType[RPC].enumType[Type].reservedRange[0]",
];

function only(facts: Map<string, string>, wanted: (path: string) => boolean): Map<string, string> {
  return new Map([...facts].filter(([path]) => wanted(path)));
}

Deno.test("proto/gen says what the official descriptor of CSI 1.13 says, the volume condition apart", async () => {
  const theirs = await official();
  assert(theirs.size > 1500, `the official descriptor has no more than ${theirs.size} facts`);
  const gone = [...theirs.keys()].filter((path) => reserved.some((range) => path.startsWith(`${range}.`)));
  assertEquals(gone.length, 2 * reserved.length);
  const [kept, ours] = [only(theirs, (path) => !gone.includes(path)), factsOf(file_csi.proto)];
  assertEquals(differences(kept, only(ours, (path) => !condition.test(path))), []);
});

Deno.test("proto/gen has the volume condition as CSI 1.12 had it", async () => {
  const theirs = only(await official("csi_1_12.mod"), (path) => condition.test(path));
  assert(theirs.size > 30, `the official descriptor has no more than ${theirs.size} facts of it`);
  assertEquals(differences(theirs, only(factsOf(file_csi.proto), (path) => condition.test(path))), []);
});

Deno.test("differences() sees a changed number, a lost secret mark and an added field", async () => {
  const theirs = await official();
  const changed = new Map(theirs);
  changed.set("messageType[DeleteVolumeRequest].field[volume_id].number", "7");
  assert(changed.delete("messageType[DeleteVolumeRequest].field[secrets].options.[csi.v1.csi_secret]"));
  changed.set("messageType[DeleteVolumeRequest].field[more].number", "9");
  assertEquals(differences(theirs, changed), [
    "messageType[DeleteVolumeRequest].field[more].number: (absent) -> 9",
    "messageType[DeleteVolumeRequest].field[secrets].options.[csi.v1.csi_secret]: true -> (absent)",
    "messageType[DeleteVolumeRequest].field[volume_id].number: 1 -> 7",
  ]);
});

Deno.test("proto/gen is what the files in proto generate: run `deno task proto` after changing one", async () => {
  const folder = await Deno.makeTempDir({ prefix: "rds-csi-proto-" });
  try {
    await generate(folder);
    for (const { name } of Deno.readDirSync(new URL("proto/gen", project))) {
      const [made, checkedIn] = await Promise.all([
        Deno.readTextFile(`${folder}/${name}`),
        Deno.readTextFile(new URL(`proto/gen/${name}`, project)),
      ]);
      assert(made === checkedIn, `proto/gen/${name} is not what is generated`);
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
