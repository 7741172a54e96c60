import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import type { Mount } from "../mounts/mountinfo.ts";
import type { ManagedSession } from "../nvme/sysfs.ts";
import { problemAt, problemsOf, type Sight } from "./condition.ts";
import type { StagingRecord } from "./records.ts";

const volumeId = `pvc-${"a".repeat(28)}`;
const nqn = `nqn.x:${volumeId}`;
const record: StagingRecord = { volumeId, nqn, kind: "filesystem", majorMinor: "259:1", stagingPath: "/staging" };
const well: Sight = {
  sessions: [session("live", "259:1")],
  record,
  mounts: [mount("259:1", "/staging"), mount("259:1", "/pod"), mount("8:1", "/")],
  nodes: [],
  hasStagingFolder: false,
  ownerOf: () => undefined,
};

function session(state: string, majorMinor: string): ManagedSession {
  const namespace = {
    name: "nvme0n1",
    nsid: 1,
    size: 1,
    majorMinor,
    path: "/dev/nvme0n1",
    holders: [],
    partitions: [],
  };
  const controllers = [{ name: "nvme0", state }];
  return { nqn, volumeId, generation: 0, controllers, namespaces: [namespace], live: state === "live" };
}

function mount(majorMinor: string, target: string, options = ["rw"], superOptions = ["rw"]): Mount {
  return { majorMinor, root: "/", target, options, fsType: "ext4", source: "/dev/x", superOptions };
}

const kinds = (change: Partial<Sight>) => problemsOf({ ...well, ...change }).map(({ kind }) => kind);

Deno.test("problemsOf() finds nothing wrong with a volume that is well, is not here, or is only noted", () => {
  assertEquals(problemsOf(well), []);
  assertEquals(kinds({ sessions: [], record: undefined, mounts: [] }), []);
  assertEquals(kinds({ sessions: [], mounts: [mount("8:1", "/")] }), []);
  const block = { ...record, kind: "block" as const, targets: ["/node"] };
  assertEquals(kinds({ record: block, mounts: [], nodes: [{ path: "/node", majorMinor: "259:1" }] }), []);
});

Deno.test("problemsOf() names each session that is not live with its states", () => {
  const [problem, ...others] = problemsOf({ ...well, sessions: [session("connecting", "259:1")] });
  assertEquals([problem?.kind, others], ["session_not_live", []]);
  assertMatch(problem?.message ?? "", /nvme0 connecting/);
  assertEquals(kinds({ sessions: [session("live", "259:1"), session("deleting", "259:7")] }), ["session_not_live"]);
});

Deno.test("problemsOf() tells a session that the kernel gave up from one that is being unstaged", () => {
  assertEquals(kinds({ sessions: [] }), ["session_gone", "stale_mount"]);
  assertEquals(kinds({ sessions: [], record: { ...record, unstaging: true } }), ["stale_mount"]);
  const block = { ...record, kind: "block" as const };
  assertEquals(kinds({ sessions: [], record: block, mounts: [], hasStagingFolder: true }), ["session_gone"]);
  const nodes = [{ path: "/node", majorMinor: "259:1" }];
  assertEquals(kinds({ sessions: [], record: block, mounts: [], nodes }), ["session_gone"]);
});

Deno.test("problemsOf() finds mounts over a device that came back under another number, and takes nobody else's for them", () => {
  const sessions = [session("live", "259:5")];
  const [problem] = problemsOf({ ...well, sessions });
  assertEquals([problem?.kind, problem?.paths], ["stale_mount", ["/staging", "/pod"]]);
  assertMatch(problem?.message ?? "", /259:1.*259:5/);
  // After a reboot the noted number may be that of the machine's own disk.
  assertEquals(kinds({ sessions, ownerOf: () => "nqn.x:nixos-var" }), []);
  const renewed = { ...record, majorMinor: "259:5", formerNumbers: ["259:1"] };
  assertEquals(kinds({ sessions, record: renewed }), ["stale_mount"]);
});

Deno.test("problemsOf() finds published nodes with an old number, and cries out when it is another volume's now", () => {
  const block = { ...record, kind: "block" as const };
  const nodes = [{ path: "/old", majorMinor: "259:1" }, { path: "/new", majorMinor: "259:5" }];
  const sight = { ...well, sessions: [session("live", "259:5")], record: block, mounts: [], nodes };
  const [problem] = problemsOf(sight);
  assertEquals([problem?.kind, problem?.paths], ["stale_node", ["/old"]]);
  const [grave] = problemsOf({ ...sight, ownerOf: (number) => number === "259:1" ? "nqn.x:other" : undefined });
  assertStringIncludes(grave?.message ?? "", "NOW THAT OF nqn.x:other");
});

Deno.test("problemsOf() finds a filesystem that the kernel has stopped, and no mount that is read-only by wish", () => {
  for (const option of ["ro", "emergency_ro", "shutdown"]) {
    assertEquals(kinds({ mounts: [mount("259:1", "/staging", ["rw"], [option])] }), ["filesystem_stopped"]);
    assertEquals(kinds({ mounts: [mount("259:1", "/staging", ["ro"], [option])] }), []);
    assertEquals(kinds({ mounts: [mount("8:1", "/other", ["rw"], [option])] }), []);
  }
});

Deno.test("problemsOf() knows a staging path that the driver has unmounted and could not mount anew", () => {
  const sight = { record: { ...record, remounting: "/staging" }, mounts: [] };
  assertEquals(kinds(sight), ["not_mounted"]);
  assertEquals(kinds({ ...sight, mounts: [mount("259:1", "/staging")] }), []);
});

Deno.test("problemAt() tells at a path what is wrong there and what is wrong everywhere", () => {
  const sight = {
    ...well,
    sessions: [session("live", "259:5")],
    mounts: [mount("259:1", "/pod"), mount("259:5", "/staging")],
  };
  assertEquals(problemAt(problemsOf(sight), "/pod")?.kind, "stale_mount");
  assertEquals(problemAt(problemsOf(sight), "/staging"), undefined);
  const dead = problemsOf({ ...well, sessions: [session("connecting", "259:1")] });
  assertEquals(problemAt(dead, "/staging")?.kind, "session_not_live");
});
