import { assertEquals, assertMatch, assertRejects, assertThrows } from "@std/assert";
import { FailedPrecondition, Unreachable } from "../runtime/errors.ts";
import { HostIdentity, type HostOptions } from "./host.ts";
import { hostId, hostNqn, hostOf } from "./host_nqn.ts";
import type { HostOfSession } from "./sysfs.ts";

const [a, b, c] = ["a", "b", "c"].map((digit) => `${digit.repeat(8)}-0000-4000-8000-${digit.repeat(12)}`) as [
  string,
  string,
  string,
];
const nqnOf = (uuid: string) => `nqn.2014-08.org.nvmexpress:uuid:${uuid}`;
const prefix = "nqn.2000-02.com.mikrotik:pvc-";

/** A host with a folder of its own. What a test does not name is not there. */
class FakeHost implements AsyncDisposable {
  readonly folder = Deno.makeTempDirSync();
  sessions: HostOfSession[] | Error = [];
  uid: string | Error = a;
  /** How often the Node's UID was asked for. */
  asked = 0;

  identity(more: Partial<HostOptions> = {}): HostIdentity {
    return new HostIdentity({
      sysfs: {
        hosts: () => this.sessions instanceof Error ? Promise.reject(this.sessions) : Promise.resolve(this.sessions),
      },
      prefix,
      etcRoot: `${this.folder}/etc`,
      keptFile: this.keptFile,
      uid: () => {
        this.asked++;
        return this.uid instanceof Error ? Promise.reject(this.uid) : Promise.resolve(this.uid);
      },
      deadline: 5000,
      ...more,
    });
  }

  get keptFile(): string {
    return `${this.folder}/plugin/nvme-host.json`;
  }

  async files(nqn: string, id?: string): Promise<void> {
    await Deno.mkdir(`${this.folder}/etc`, { recursive: true });
    await Deno.writeTextFile(`${this.folder}/etc/hostnqn`, `${nqn}\n`);
    if (id !== undefined) await Deno.writeTextFile(`${this.folder}/etc/hostid`, `${id}\n`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Deno.remove(this.folder, { recursive: true });
  }
}

function session(nqn: string, hostNqn: string, hostId?: string): HostOfSession {
  return { nqn, hostNqn, hostId };
}

Deno.test("HostIdentity takes the settings, else a session's identity, else the host's files, else the Node's UID", async () => {
  await using host = new FakeHost();
  assertEquals(await host.identity().get(), { nqn: nqnOf(a), id: a });
  await host.files(nqnOf(b), c);
  assertEquals(await host.identity().get(), { nqn: nqnOf(b), id: c });
  host.sessions = [session("nqn.x:foreign", "nqn.2020-01.org.example:session", c)];
  assertEquals(await host.identity().get(), { nqn: "nqn.2020-01.org.example:session", id: c });
  assertEquals(await host.identity({ nqn: nqnOf(c) }).get(), { nqn: nqnOf(c), id: c });
  assertEquals(await host.identity({ nqn: nqnOf(c), id: b }).get(), { nqn: nqnOf(c), id: b });
});

Deno.test("HostIdentity gives one host NQN no second id: a session's or the host's is taken with it", async () => {
  await using host = new FakeHost();
  await host.files(nqnOf(a), b);
  assertEquals(await host.identity({ nqn: nqnOf(a) }).get(), { nqn: nqnOf(a), id: b });
  assertEquals(await host.identity({ nqn: nqnOf(c) }).get(), { nqn: nqnOf(c), id: c });
  host.sessions = [session("nqn.x:one", nqnOf(b), c), session("nqn.x:other", nqnOf(a), c)];
  assertEquals(await host.identity({ nqn: nqnOf(a) }).get(), { nqn: nqnOf(a), id: c });
  host.sessions = [session("nqn.x:old-kernel", nqnOf(b))];
  assertEquals(await host.identity().get(), { nqn: nqnOf(b), id: b });
});

Deno.test("HostIdentity keeps what was derived, so that neither a restart nor another UID changes it", async () => {
  await using host = new FakeHost();
  const first = await host.identity().get();
  host.uid = new Unreachable("the API is away");
  assertEquals(await host.identity().get(), first);
  host.uid = b;
  assertEquals(await host.identity().get(), first);
  assertEquals(host.asked, 1);
  await Deno.remove(host.keptFile);
  assertEquals(await host.identity().get(), { nqn: nqnOf(b), id: b });
});

Deno.test("HostIdentity asks once, also for many at the same time, and again after a failure", async () => {
  await using host = new FakeHost();
  host.uid = new Unreachable("the API is away");
  const identity = host.identity();
  await assertRejects(() => identity.get(), Unreachable, "the API is away");
  host.uid = a;
  const all = await Promise.all([identity.get(), identity.get(), identity.known]);
  assertEquals(new Set(all).size, 1);
  assertEquals(host.asked, 2);
  host.sessions = [session("nqn.x:later", nqnOf(c), c)];
  assertEquals(await identity.get(), all[0]);
});

Deno.test("HostIdentity takes no failure for an absence", async () => {
  await using host = new FakeHost();
  host.sessions = new Unreachable("sysfs hangs");
  await assertRejects(() => host.identity().get(), Unreachable, "sysfs hangs");
  host.sessions = [];
  for (const [nqn, id] of [["", a], ["uuid:x", a], [nqnOf(a), "no uuid"], [nqnOf(a), ""]] as const) {
    await host.files(nqn, id);
    const error = await assertRejects(() => host.identity().get(), FailedPrecondition) as Error;
    assertMatch(error.message, /etc\/host(nqn|id) cannot be used: write .*--host-nqn/);
  }
  await Deno.remove(`${host.folder}/etc`, { recursive: true });
  await Deno.mkdir(`${host.folder}/plugin`);
  for (const kept of ["", "{}", `{"nqn":"${nqnOf(a)}","id":"x"}`]) {
    await Deno.writeTextFile(host.keptFile, kept);
    await assertRejects(() => host.identity().get(), FailedPrecondition, "cannot be read");
  }
  assertEquals(host.asked, 0);
});

Deno.test("HostIdentity says what was waited for when a source does not answer", async () => {
  await using host = new FakeHost();
  const silent = host.identity({ uid: () => new Promise(() => {}), deadline: 20 });
  await assertRejects(() => silent.get(), Unreachable, "--host-nqn");
  assertThrows(() => host.identity({ id: a }), FailedPrecondition, "--host-id needs --host-nqn");
});

Deno.test("HostIdentity goes to no other source when what it derived cannot be kept", async () => {
  await using host = new FakeHost();
  await Deno.writeTextFile(`${host.folder}/plugin`, "a file, no folder");
  await assertRejects(() => host.identity().get(), FailedPrecondition, "cannot be ");
});

Deno.test("hostOf() makes the id from the NQN's UUID, else always the same one from its text", () => {
  assertEquals(hostOf(nqnOf(a.toUpperCase())).id, a);
  const { id } = hostOf("nqn.2020-01.org.example:host-1");
  assertEquals(id, "e911dffd-c441-8b2a-9d29-f8595f0f43b3");
  assertMatch(id, /^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  assertEquals(hostOf("nqn.2020-01.org.example:host-2").id === id, false);
  assertEquals(hostId(id), id);
});

Deno.test("hostNqn() and hostId() refuse what nvme-cli or the kernel would take for something else", () => {
  for (
    const bad of [
      "",
      "nqn.",
      "x",
      "nqn.2020-01.a b",
      "nqn.2020-01.a,hostid=b",
      `nqn.${"x".repeat(220)}`,
      "nqn.é2345678",
    ]
  ) {
    assertThrows(() => hostNqn(bad), Error, "write an NQN");
  }
  for (const bad of ["", "x", a.slice(1), `${a}0`]) assertThrows(() => hostId(bad), Error, "write a UUID");
  assertEquals(hostId(a.toUpperCase()), a);
});
