import { assert, assertEquals, assertMatch, assertRejects, assertThrows } from "@std/assert";
import type { Buffer } from "node:buffer";
import ssh2 from "ssh2";
import { poll } from "../runtime/deadline.ts";
import { generateKey, isAuthorized } from "./keys.ts";
import type { SimulatorOptions } from "./options.ts";
import { type Simulator, startSimulator } from "./simulator.ts";

const MiB = 1024 ** 2;

/** A program that speaks SSH with the simulator. */
class Host {
  readonly client = new ssh2.Client();
  readonly closed: Promise<void>;

  private constructor() {
    this.closed = new Promise((resolve) => this.client.once("close", () => resolve()));
  }

  static async connect(simulator: Simulator, more: ssh2.ConnectConfig = {}): Promise<Host> {
    const host = new Host();
    const key = simulator.clientKeyFile && await Deno.readTextFile(simulator.clientKeyFile);
    await new Promise<void>((resolve, reject) => {
      host.client.once("ready", resolve);
      host.client.on("error", reject);
      host.client.once("close", () => reject(new Error("closed")));
      const { host: address, port } = simulator;
      host.client.connect({ host: address, port, username: "admin", ...(key ? { privateKey: key } : {}), ...more });
      host.client.setNoDelay(true);
    });
    return host;
  }

  /** What came before the end, and the exit status, if there was one. */
  exec(line: string): Promise<{ text: string; status: number | undefined }> {
    return new Promise((resolve, reject) => {
      let text = "";
      let status: number | undefined;
      this.client.once("close", () => resolve({ text, status }));
      this.client.exec(line, (error, channel) => {
        if (error) return reject(error);
        channel.on("data", (chunk: Uint8Array) => text += new TextDecoder().decode(chunk));
        channel.on("exit", (code: number) => status = code);
        channel.on("close", () => resolve({ text, status }));
      });
    });
  }
}

/** Shows a key that is let in, and signs with another. */
class Impostor extends ssh2.BaseAgent {
  readonly #shown: string;
  readonly #own: ssh2.ParsedKey;
  constructor(shown: { public: string }, own: { private: string }) {
    super();
    this.#shown = shown.public;
    this.#own = ssh2.utils.parseKey(own.private) as ssh2.ParsedKey;
  }
  override getIdentities(done: (error: Error | undefined, keys?: string[]) => void): void {
    done(undefined, [this.#shown]);
  }
  override sign(_key: unknown, data: Buffer, options: unknown, done?: ssh2.SignCallback): void {
    (done ?? options as ssh2.SignCallback)(undefined, this.#own.sign(data));
  }
}

async function withSimulator(
  work: (simulator: Simulator, folder: string) => Promise<void>,
  options: Partial<SimulatorOptions> = {},
): Promise<void> {
  const folder = await Deno.makeTempDir();
  const simulator = await startSimulator({ poolFolder: `${folder}/pool`, mountPoint: "pool", ...options });
  try {
    await work(simulator, folder);
  } finally {
    await simulator.close();
    await Deno.remove(folder, { recursive: true });
  }
}

function until<T>(condition: () => Promise<T | undefined> | T | undefined): Promise<T> {
  return poll(condition, { signal: AbortSignal.timeout(10_000), interval: 5 });
}

const add =
  '/disk/add type=file slot=a file-path="/pool/a.img" file-size=1M nvme-tcp-export=yes nvme-tcp-server-nqn=nqn.x:a';
const disksOf = (simulator: Simulator) => simulator.state().disks.filter((row) => row["type"] === "file").length;

Deno.test("Simulator answers over SSH with exit status 0 on errors too, one line each, and counts", async () => {
  await withSimulator(async (simulator) => {
    const host = await Host.connect(simulator);
    assertEquals(await host.exec(`${add}; :put "ok-1"`), { text: "ok-1\r\n", status: 0 });
    assertEquals(await host.exec(add), { text: "failure: already have such slot\r\n", status: 0 });
    assertEquals(await host.exec(":put 1\n:put 2"), { text: "syntax error (line 1 column 7)\r\n", status: 0 });
    const { lines, commands, connections } = simulator.state();
    assertEquals({ lines, commands, connections }, { lines: 3, commands: { "disk add": 2 }, connections: 1 });
  });
});

Deno.test("Simulator lets in only RSA and Ed25519 keys of its list, and only its user", async () => {
  const keys = { ed: generateKey(), other: generateKey() };
  const ecdsa = ssh2.utils.generateKeyPairSync("ecdsa", { bits: 256 });
  const rsa = ssh2.utils.generateKeyPairSync("rsa", { bits: 2048 });
  const authorizedKeys = [keys.ed.public, `${ecdsa.public} comment`, `${rsa.public} somebody@somewhere`];
  await withSimulator(async (simulator) => {
    const trial = (privateKey: string, username = "csi") => Host.connect(simulator, { privateKey, username });
    for (const key of [keys.ed, rsa]) assertEquals((await (await trial(key.private)).exec(":put 1")).text, "1\r\n");
    await assertRejects(() => trial(keys.other.private));
    await assertRejects(() => trial(ecdsa.private));
    await assertRejects(() => trial(keys.ed.private, "admin"));
    await assertRejects(() => Host.connect(simulator, { username: "csi", password: "" }));
    await assertRejects(() => Host.connect(simulator, { username: "csi", agent: new Impostor(keys.ed, keys.other) }));
    assertEquals(simulator.clientKeyFile, undefined);
  }, { authorizedKeys, user: "csi" });
});

Deno.test("isAuthorized() takes RSA and Ed25519 keys of the list, and no ECDSA key", () => {
  for (const [type, taken] of [["ssh-ed25519", true], ["ssh-rsa", true], ["ecdsa-sha2-nistp256", false]] as const) {
    const lines = [`${type} ${btoa("one")} somebody`, `${type} ${btoa("two")}`];
    assertEquals(isAuthorized(lines, type, new TextEncoder().encode("two")), taken, type);
    assertEquals(isAuthorized(lines, type, new TextEncoder().encode("three")), false);
  }
});

Deno.test("Simulator keeps rows, files, keys and subvolumes over a restart", async () => {
  const folder = await Deno.makeTempDir();
  const options = { poolFolder: folder, mountPoint: "pool" };
  const first = await startSimulator(options);
  await first.run(`${add} comment="kept"; /disk/btrfs/subvolume/add fs=pool name=v`);
  await first.run("/disk/set [find slot=a] file-size=3M");
  const { disks, files } = first.state();
  await first.close();
  const second = await startSimulator(options);
  assertEquals([second.state().disks, second.state().files], [disks, files]);
  assertEquals([second.hostKey, second.fingerprint], [first.hostKey, first.fingerprint]);
  assertEquals(
    await second.run(":put [/disk/btrfs/subvolume/get v name]; :put [/disk/get a size]"),
    `v\r\n${3 * MiB}\r\n`,
  );
  await second.close();
  await Deno.remove(folder, { recursive: true });
});

const cuts: [when: "before" | "middle" | "after" | "answer", disks: number, text: string][] = [
  ["before", 0, ""],
  ["middle", 1, ""],
  ["after", 1, ""],
  ["answer", 1, "ok-"],
];

Deno.test("Faults.cut() resets the connection without an exit status, at the moment asked for, once", async () => {
  for (const [when, disks, text] of cuts) {
    await withSimulator(async (simulator) => {
      simulator.faults.cut(when, "disk add");
      const host = await Host.connect(simulator);
      assertEquals(await host.exec(':put "untouched"'), { text: "untouched\r\n", status: 0 });
      assertEquals(await host.exec(`${add}; :put "ok-"`), { text, status: undefined }, when);
      await until(() => disksOf(simulator) === disks || undefined);
      assertEquals((await (await Host.connect(simulator)).exec(':put "again"')).status, 0);
      assertEquals(simulator.state().faults, 0);
    });
  }
});

Deno.test("Faults.hang(), noSpace(), busy() and error() do what they say, as often as asked", async () => {
  await withSimulator(async (simulator) => {
    const host = await Host.connect(simulator);
    simulator.faults.noSpace();
    simulator.faults.busy("remove", 2);
    simulator.faults.error("failure: the flux", "print");
    assertEquals((await host.exec(`${add}; :put never`)).text, "failure: not enough space\r\n");
    assertEquals((await host.exec(`${add}; :put now`)).text, "now\r\n");
    for (let time = 0; time < 2; time++) {
      assertEquals(
        (await host.exec("/disk/remove [find slot=a]")).text,
        "failure: could not unmount, stop using it first\r\n",
      );
    }
    assertEquals((await host.exec(':onerror e in={/disk/print} do={:put "<$e>"}')).text, "<failure: the flux>\r\n");
    simulator.faults.hang("remove");
    let answered = false;
    const hanging = host.exec("/disk/remove [find slot=a]").then(() => answered = true);
    assertEquals((await host.exec("/disk/remove [find slot=a]; :put [:len [/disk/find where slot=a]]")).text, "0\r\n");
    await until(() => simulator.state().channels === 1 || undefined);
    assertEquals(answered, false);
    host.client.destroy();
    await hanging;
    await until(() => simulator.state().channels === 0 || undefined);
  });
});

Deno.test("Faults with an argument meet only the command that was given it, and are known in the middle only", async () => {
  await withSimulator(async (simulator) => {
    const host = await Host.connect(simulator);
    await host.exec(add);
    const refuse = { action: "error", command: "disk set", text: "not enough permissions (9)" } as const;
    const steps = ["nvme-tcp-export=no", "nvme-tcp-server-nqn=nqn.x:b", "nvme-tcp-export=yes"];
    for (const argument of ["nvme-tcp-server-nqn", "nvme-tcp-server-nqn=nqn.x:b"]) {
      simulator.faults.add({ ...refuse, argument });
      const line = steps.map((step) => `/disk/set [find slot=a] ${step}`).join("; ");
      assertEquals((await host.exec("/disk/set [find slot=a] comment=fine; :put fine")).text, "fine\r\n");
      assertEquals((await host.exec(line)).text, "not enough permissions (9)\r\n");
      assertEquals(
        (await host.exec(":put [/disk/get a nvme-tcp-export]")).text,
        "false\r\n",
        "the first step was done",
      );
      assertEquals(simulator.state().faults, 0);
    }
    simulator.faults.add({ ...refuse, argument: "nvme-tcp-export=yes" });
    assertEquals((await host.exec(`/disk/set [find slot=a] ${steps[0]}; :put fine`)).text, "fine\r\n");
    assertEquals(simulator.state().faults, 1);
    assertThrows(() => simulator.faults.add({ action: "cut", when: "after", argument: "comment" }), TypeError);
  });
});

Deno.test("Simulator.state() tells which NQNs hosts can reach: of exports that are on, while it runs", async () => {
  await withSimulator(async (simulator) => {
    const set = (change: string) => simulator.run(`/disk/set [find slot=a] ${change}`);
    await simulator.run(add);
    assertEquals(simulator.state().exports, ["nqn.x:a"]);
    await set("nvme-tcp-export=no");
    assertEquals(simulator.state().exports, []);
    await set("nvme-tcp-server-nqn=nqn.x:a.g1");
    assertEquals(simulator.state().exports, []);
    await set("nvme-tcp-export=yes");
    assertEquals(simulator.state().exports, ["nqn.x:a.g1"]);
    const down = simulator.faults.reboot(20);
    await until(() => simulator.state().exports.length === 0 || undefined);
    await down;
    assertEquals(simulator.state().exports, ["nqn.x:a.g1"]);
    await simulator.run("/disk/remove [find slot=a]");
    assertEquals(simulator.state().exports, []);
  });
});

Deno.test("an add outlives its channel and its connection, by a setting; the rest of its line does not", async () => {
  for (const [outlivesChannel, way] of [[true, "channel"], [true, "connection"], [false, "connection"]] as const) {
    await withSimulator(async (simulator) => {
      const host = await Host.connect(simulator);
      host.client.exec(`${add}; /disk/set [find slot=a] comment=never`, (_error, channel) => {
        channel.on("close", () => {}).resume();
        until(() => simulator.state().commands["disk add"])
          .then(() => way === "channel" ? channel.close() : host.client.destroy());
      });
      await until(() => simulator.state().commands["disk add"]);
      await until(() => simulator.state().channels === 0 || undefined);
      // An add that begins later and takes as long: when it has happened, the lost one had all its time.
      const later = add.replace("a.img", "b.img").replace("slot=a", "slot=b").replace("nqn.x:a", "nqn.x:b");
      await (await Host.connect(simulator)).exec(`${later}; /disk/remove [find slot=b]`);
      assertEquals([disksOf(simulator), simulator.state().commands["disk set"]], [outlivesChannel ? 1 : 0, undefined]);
    }, { latency: { add: 200 }, guesses: { outlivesChannel } });
  }
});

Deno.test("Simulator has no shell, no subsystem and no terminal programs", async () => {
  await withSimulator(async (simulator) => {
    const { client } = await Host.connect(simulator);
    await assertRejects(() =>
      new Promise((resolve, reject) => client.shell((error) => error ? reject(error) : resolve(1)))
    );
    await assertRejects(() =>
      new Promise((resolve, reject) => client.sftp((error) => error ? reject(error) : resolve(1)))
    );
    client.destroy();
  });
});

Deno.test("Faults.reboot() resets all connections, loses what runs, and comes back with the state of before", async () => {
  const exportsDir = await Deno.makeTempDir();
  await withSimulator(async (simulator) => {
    await simulator.run(add);
    const host = await Host.connect(simulator);
    const lost = host.exec("/disk/set [find slot=a] comment=lost");
    await until(() => simulator.state().commands["disk set"]);
    const down = simulator.faults.reboot(200);
    assertEquals((await lost).status, undefined);
    await until(() => [...Deno.readDirSync(exportsDir)].length === 0 || undefined);
    await assertRejects(() => Host.connect(simulator));
    await down;
    const again = await Host.connect(simulator);
    assertEquals((await again.exec(":put [/disk/get a comment]")).text, "\r\n");
    assertEquals([...Deno.readDirSync(exportsDir)].length, 1);
  }, { latency: { "disk set": 60_000 }, exporter: "loop", exportsDir });
  await Deno.remove(exportsDir);
});

Deno.test("channels over the limit are opened and never answered", async () => {
  await withSimulator(async (simulator) => {
    const host = await Host.connect(simulator);
    simulator.setLatency("line", 60_000);
    for (let n = 0; n < 2; n++) void host.exec(":put slow");
    await until(() => simulator.state().channels === 2 || undefined);
    simulator.setLatency("line", 0);
    void host.exec(":put third");
    await until(() => simulator.state().channels === 3 || undefined);
    assertEquals(simulator.state().lines, 3);
    host.client.destroy();
    const other = await Host.connect(simulator);
    await until(() => simulator.state().channels === 0 || undefined);
    assertEquals((await other.exec(":put fourth")).text, "fourth\r\n");
  }, { guesses: { maxChannels: 2 } });
});

Deno.test("the exporter loop shows each export, its growth at once or after a new connection, and its end", async () => {
  for (const growth of ["now", "reconnect"] as const) {
    const exportsDir = await Deno.makeTempDir();
    await withSimulator(async (simulator, folder) => {
      await simulator.run(add);
      const shown = () => JSON.parse(Deno.readTextFileSync(`${exportsDir}/${encodeURIComponent("nqn.x:a")}`));
      const { generationTime, ...rest } = shown();
      assert(generationTime > 0);
      assertEquals(rest, { nqn: "nqn.x:a", port: 4420, file: `${folder}/pool/a.img`, size: MiB, connectedSize: MiB });
      await simulator.run("/disk/set [find slot=a] file-size=2M");
      assertEquals([shown().size, shown().connectedSize], [2 * MiB, growth === "now" ? 2 * MiB : MiB]);
      await simulator.faults.reboot(0);
      assertEquals(shown().connectedSize, 2 * MiB, "after a reboot every connection is new");
      await simulator.run("/disk/set [find slot=a] nvme-tcp-export=no");
      assertEquals([...Deno.readDirSync(exportsDir)], []);
      await simulator.run("/disk/set [find slot=a] nvme-tcp-export=yes nvme-tcp-server-nqn=nqn.x:a.g1");
      assertEquals([...Deno.readDirSync(exportsDir)].map(({ name }) => decodeURIComponent(name)), ["nqn.x:a.g1"]);
      await simulator.run("/disk/remove [find slot=a]");
      assertEquals([...Deno.readDirSync(exportsDir)], []);
    }, { exporter: "loop", exportsDir, guesses: { growth } });
    await Deno.remove(exportsDir);
  }
});

Deno.test("the control socket takes faults and latencies and tells the state, a line for a line", async () => {
  const controlSocket = `${await Deno.makeTempDir()}/control`;
  await withSimulator(async (simulator) => {
    const connection = await Deno.connect({ transport: "unix", path: controlSocket });
    const answers = connection.readable.pipeThrough(new TextDecoderStream()).getReader();
    const ask = async (line: string) => {
      await connection.write(new TextEncoder().encode(`${line}\n`));
      return JSON.parse((await answers.read()).value ?? "");
    };
    const fault = { op: "fault", action: "error", command: "disk add", argument: "slot=a", text: "failure: busy" };
    assertEquals(await ask(JSON.stringify(fault)), { ok: true });
    assertEquals((await ask('{"op":"state"}')).faults, 1);
    assertEquals((await (await Host.connect(simulator)).exec(add)).text, "failure: busy\r\n");
    const { ok, lines, commands, disks } = await ask('{"op":"state"}');
    assertEquals([ok, lines, commands, disks.length], [true, 1, { "disk add": 1 }, 1]);
    assertEquals((await ask('{"op":"state"}')).exports, []);
    assertMatch((await ask('{"op":"dance"}')).error, /^op is one of/);
    assertEquals((await ask("no JSON")).ok, false);
    assertEquals((await ask('{"op":"fault","action":"dance"}')).ok, false);
    assertEquals((await ask('{"op":"run","line":":put 1"}')).output, "1\r\n");
    await answers.cancel();
  }, { controlSocket });
});
