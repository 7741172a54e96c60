import type { Config } from "../config_read.ts";
import { ros } from "../rds/script.ts";
import { hostOf, uuidNqn } from "../nvme/host_nqn.ts";
import { tcpModule } from "../nvme/module.ts";
import { Sessions } from "../nvme/session.ts";
import { Sysfs } from "../nvme/sysfs.ts";
import type { Commands } from "../runtime/command.ts";
import { Deadline, poll } from "../runtime/deadline.ts";
import { FailedPrecondition, messageOf } from "../runtime/errors.ts";
import { type Answer, exported, nqnOf, type Patience, type Question, quoted } from "./questions.ts";
import { nqnPrefix, type Scratch } from "./scratch.ts";

/** A node's means to connect to the scratch disk, and to nothing else: its NQN has a prefix of its own. */
interface Initiator {
  sysfs: Sysfs;
  sessions: Sessions;
  hostNqn: string;
  address: string;
  wait: Patience;
}

/** What only a connected node can find out. `why`: this machine cannot; the questions are then for show. */
export async function connectedQuestions(
  config: Config,
  { commands, patience: wait, signal }: { commands: Commands; patience: Patience; signal: AbortSignal },
): Promise<{ questions: Question[]; why: string | undefined }> {
  const sysfs = new Sysfs({ sysfs: config.sysfsRoot, dev: config.devRoot });
  const host = hostOf(uuidNqn + crypto.randomUUID());
  const deadlines = { connect: wait.connected, command: wait.connected };
  const sessions = new Sessions({
    commands,
    sysfs,
    prefix: nqnPrefix,
    deadlines,
    host: { get: () => Promise.resolve(host) },
  });
  const address = config.nvmeAddress ?? config.rdsAddress;
  const initiator = { sysfs, sessions, hostNqn: host.nqn, address, wait };
  return { questions: questionsOf(initiator), why: await whyNot({ sysfs, commands, signal }) };
}

async function whyNot(
  { sysfs, commands, signal }: { sysfs: Sysfs; commands: Commands; signal: AbortSignal },
): Promise<string | undefined> {
  try {
    await commands.run("nvme", ["version"], { deadline: 5000, signal });
    if (await sysfs.hasModule(tcpModule, { signal })) return undefined;
    return "this machine's kernel has no module nvme-tcp";
  } catch (error) {
    return `this machine cannot connect: ${messageOf(error)}`;
  }
}

/** What is known to be open and is not asked: it takes an outage, which is nothing for a command. */
export const leftOut = {
  name: "exportsBackAfter",
  asks: "what is still exported after a reboot, and how soon",
  expects: "exports come back by themselves, their port perhaps before them",
  why: "RouterOS would have to be restarted: docs/guides/hardware-validation.md, step 2.6",
};

/** What is asked with a connected node; nothing is done. */
export function questionsOfNode(): (Pick<Question, "name" | "asks" | "expects"> & { by: typeof growth })[] {
  return [
    {
      name: "growth",
      asks: "when a connected node sees that a disk grew",
      expects: "now; with reconnect set --expansion=offline on controller and nodes",
      by: growth,
    },
    {
      name: "cutsOff",
      asks: "a node is cut off when an export goes, and stays so when it comes back under another NQN",
      expects: "true: with false a lost node's volume cannot be given to another one safely",
      by: cutsOff,
    },
    {
      name: "allowsHosts",
      asks: "nvme-tcp-server-allow-host-name lets in the host NQN that it names, and no other",
      expects: "true or false: the driver does not use it",
      by: allowsHosts,
    },
  ];
}

function questionsOf(initiator: Initiator): Question[] {
  return questionsOfNode().map(({ by, ...about }) => ({
    ...about,
    ask: (scratch, signal) => by(initiator, scratch, signal),
  }));
}

/** Exports the scratch disk, connects, and whatever happens disconnects before it goes. */
async function connected<T>(
  { sessions, address }: Initiator,
  { scratch, signal }: { scratch: Scratch; signal: AbortSignal },
  work: (nqn: string) => Promise<T>,
): Promise<T> {
  const nqn = nqnOf(scratch);
  await scratch.must(exported(scratch, nqn), signal);
  try {
    await sessions.connect(targetOf(nqn, address, scratch), { signal });
    return await work(nqn);
  } finally {
    for (const each of [nqn, `${nqn}.g1`]) await sessions.disconnect(each);
  }
}

function targetOf(nqn: string, address: string, { port }: Scratch) {
  // The kernel is not to hold on to the disk of a probe that was killed.
  return { nqn, address, port, ctrlLossTmo: 60, reconnectDelay: 2, keepAliveTmo: 0 };
}

async function growth(initiator: Initiator, scratch: Scratch, signal: AbortSignal): Promise<Answer> {
  const { sessions, address } = initiator;
  return await connected(initiator, { scratch, signal }, async (nqn) => {
    const { size } = await sessions.device(nqn, { signal });
    const wanted = size + Number(scratch.size);
    const said = await scratch.set(ros`file-size=${wanted}`, signal);
    if (!said.done) throw new FailedPrecondition(`a disk that is connected does not grow: ${quoted(said)}`);
    const began = performance.now();
    try {
      await sessions.rescan(nqn, wanted, { signal });
      return { value: "now", seen: `${wanted} bytes after ${Math.round(performance.now() - began)} ms` };
    } catch (error) {
      signal.throwIfAborted();
      await sessions.disconnect(nqn, { signal });
      const device = await sessions.connect(targetOf(nqn, address, scratch), { signal });
      if (device.size >= wanted) return { value: "reconnect", seen: messageOf(error) };
      throw new FailedPrecondition(`a new connection shows ${device.size} bytes, not ${wanted}`);
    }
  });
}

async function cutsOff(initiator: Initiator, scratch: Scratch, signal: AbortSignal): Promise<Answer> {
  const { sessions, sysfs, address, wait } = initiator;
  return await connected(initiator, { scratch, signal }, async (nqn) => {
    await scratch.must(ros`/disk/set [/disk/find where ${scratch.ours(scratch.name)}] nvme-tcp-export=no`, signal);
    const began = performance.now();
    using deadline = new Deadline(wait.cutOff, "the session to end", signal);
    const lost = await poll(async () => {
      const session = await sysfs.session(nqn, { signal });
      return session?.live ? undefined : true;
    }, { signal: deadline.signal, interval: 200 }).catch(() => false);
    signal.throwIfAborted();
    if (!lost) {
      return { value: false, seen: `the session is still live ${wait.cutOff / 1000} s after the export went` };
    }
    const took = Math.round(performance.now() - began);
    await scratch.must(exported(scratch, `${nqn}.g1`), signal);
    await sessions.connect(targetOf(`${nqn}.g1`, address, scratch), { signal });
    const old = await sysfs.session(nqn, { signal });
    const state = old?.controllers.map((controller) => controller.state).join(", ") || "gone";
    return { value: !old?.live, seen: `cut off after ${took} ms; under the new NQN live, under the old one ${state}` };
  });
}

async function allowsHosts(initiator: Initiator, scratch: Scratch, signal: AbortSignal): Promise<Answer> {
  const { sessions, address, hostNqn } = initiator;
  const nqn = nqnOf(scratch);
  const letsIn = async (host: string): Promise<string | true> => {
    await scratch.must(
      ros`/disk/set [/disk/find where ${scratch.ours(scratch.name)}] nvme-tcp-server-allow-host-name=${host}`,
      signal,
    );
    await scratch.must(exported(scratch, nqn), signal);
    try {
      await sessions.connect(targetOf(nqn, address, scratch), { signal });
      return true;
    } catch (error) {
      signal.throwIfAborted();
      return messageOf(error).slice(0, 120);
    } finally {
      await sessions.disconnect(nqn);
      await scratch.set(ros`nvme-tcp-export=no`, signal);
    }
  };
  try {
    const [right, wrong] = [await letsIn(hostNqn), await letsIn(uuidNqn + crypto.randomUUID())];
    const shown = (outcome: string | true) => outcome === true ? "let in" : `not let in (${outcome})`;
    return { value: right === true && wrong !== true, seen: `right host ${shown(right)}, wrong host ${shown(wrong)}` };
  } finally {
    await scratch.set(ros`nvme-tcp-server-allow-host-name=""`, signal);
  }
}
