import { assert, assertEquals, assertNotEquals } from "@std/assert";
import { Deadline, pause, poll } from "../../src/runtime/deadline.ts";
import type { GuestProcess } from "../lab/machines/guest.ts";
import type { Machines, NodeMachine } from "../lab/machines/machines.ts";
import { patient } from "../lab/machines/patience.ts";
import { machineScenarios } from "./machines_scenarios.ts";
import { MachineVolume } from "./machines_volume.ts";

const scenario = machineScenarios({ nodes: 2 });

function theNode(machines: Machines, number = 1): NodeMachine {
  const node = machines.nodes[number - 1];
  assert(node);
  return node;
}

/** A program on the volume that writes a line with fsync, again and again, and ends when the file `stop` is there. */
async function writer(node: NodeMachine, folder: string): Promise<GuestProcess> {
  const script = 'i=0; while [ ! -e /run/stop ]; do i=$((i+1)); echo "line $i" >"$0/next"; ' +
    'dd if="$0/next" of="$0/lines" oflag=append conv=notrunc,fsync status=none; echo "$i"; done';
  await node.machine.guest.sh("rm -f /run/stop");
  const started = await node.machine.start("writer", "sh", ["-eu", "-c", script, folder]);
  await progress(started);
  return started;
}

/** Waits until the writer has written more. */
async function progress(writer: GuestProcess): Promise<void> {
  using deadline = new Deadline(patient(180_000), "the writer to go on");
  const before = writer.output.length;
  await poll(() => writer.output.length > before || undefined, { signal: deadline.signal, interval: 100 });
}

/** Ends the writer. Nothing that it wrote may be missing, and nothing may have failed. */
async function finish(node: NodeMachine, writer: GuestProcess, folder: string): Promise<void> {
  await node.machine.guest.sh("touch /run/stop");
  assertEquals(await writer.ended(), 0, writer.output);
  const count = Number(writer.output.trim().split("\n").at(-1));
  const lines = await node.machine.guest.sh(`cat ${folder}/lines`);
  assertEquals(lines.split("\n"), Array.from({ length: count }, (_, at) => `line ${at + 1}`));
}

async function exportsOf(machines: Machines): Promise<string[]> {
  const text = await machines.target.machine.guest.sh("ls /sys/kernel/config/nvmet/subsystems");
  return text.split("\n").filter(Boolean);
}

scenario("a volume moves from node to node with its data, over the kernel's NVMe/TCP", async (machines) => {
  const [first, second] = [theNode(machines, 1), theNode(machines, 2)];
  const volume = await MachineVolume.create(machines);
  await volume.up(first);
  const file = `${volume.targetPath()}/data`;
  const sum = await first.machine.guest.sh(
    `dd if=/dev/urandom of=${file} bs=1M count=16 conv=fsync status=none; sha256sum <${file}`,
  );
  assertEquals((await first.controllers()).map(({ nqn, state }) => [nqn, state]), [[volume.nqn, "live"]]);
  await volume.down(first);
  assertEquals(await first.controllers(), []);
  await volume.up(second);
  assertEquals(await second.machine.guest.sh(`sha256sum <${file}`), sum);
  await volume.down(second);
  await volume.delete();
  assertEquals(await exportsOf(machines), []);
  assertEquals(await machines.target.machine.guest.sh("losetup --list"), "");
});

scenario("a link that is cut stops writing, and it goes on when the link is back", async (machines) => {
  const node = theNode(machines);
  const volume = await MachineVolume.create(machines);
  await volume.up(node);
  const work = await writer(node, volume.targetPath());
  await node.machine.cutLink();
  await node.untilSession(volume.nqn, "connecting");
  const written = work.output;
  await pause(3000);
  assertEquals(work.output, written);
  await node.machine.restoreLink();
  await node.untilSession(volume.nqn, "live");
  await progress(work);
  await finish(node, work, volume.targetPath());
  await volume.down(node);
  await volume.delete();
});

scenario("a target that is reset comes back with its volumes, once with its port up before them", async (machines) => {
  const { target } = machines;
  const node = theNode(machines);
  const volume = await MachineVolume.create(machines);
  await volume.up(node);
  const device = await node.machine.guest.sh(`findmnt -n -o MAJ:MIN ${volume.targetPath()}`);
  for (const guesses of ["", "exportsBackAfter=6000"]) {
    target.settings = guesses ? { guesses } : {};
    const work = await writer(node, volume.targetPath());
    await target.machine.reset();
    await node.untilSession(volume.nqn, "live", patient(180_000));
    await progress(work);
    await finish(node, work, volume.targetPath());
    await node.machine.guest.sh(`rm ${volume.targetPath()}/lines`);
  }
  target.settings = {};
  assertEquals(await node.machine.guest.sh(`findmnt -n -o MAJ:MIN ${volume.targetPath()}`), device);
  const refusals = await node.machine.guest.sh(
    "dmesg | grep -c 'Connect Invalid\\|rejected\\|Connect command failed' || true",
  );
  assertNotEquals(refusals, "0", "the port was never up before its subsystems");
  await volume.down(node);
  await volume.delete();
});

scenario(
  "an export that is off cuts its session; under another NQN it is another's, under the old one it is back",
  async (machines) => {
    const { target } = machines;
    const node = theNode(machines);
    const volume = await MachineVolume.create(machines);
    await volume.up(node);
    const set = (more: string) => target.routerOs(`/disk/set [find where slot="${volume.id}"] ${more}`);
    const other = `${volume.nqn}.other`;
    await set("nvme-tcp-export=no");
    await node.untilSession(volume.nqn, "connecting");
    await set(`nvme-tcp-export=yes nvme-tcp-server-nqn=${other}`);
    const second = theNode(machines, 2);
    await second.machine.guest.sh(`nvme connect -t tcp -a ${target.machine.address} -s 4420 -n ${other}`);
    await second.untilSession(other, "live");
    assertEquals((await node.controllers()).map(({ state }) => state), ["connecting"]);
    await second.machine.guest.sh(`nvme disconnect -n ${other}`);
    await set("nvme-tcp-export=no");
    await set(`nvme-tcp-export=yes nvme-tcp-server-nqn=${volume.nqn}`);
    await node.untilSession(volume.nqn, "live");
    await volume.down(node);
    await volume.delete();
  },
);

scenario("a session can come back under another number", async (machines) => {
  const node = theNode(machines);
  const volume = await MachineVolume.create(machines);
  await volume.attach(node);
  await volume.stage(node);
  const [before] = await node.controllers();
  await volume.unstage(node);
  const foreign = await machines.target.foreignExport("in-between");
  const address = machines.target.machine.address;
  await node.machine.guest.sh(`nvme connect -t tcp -a ${address} -s 4420 -n ${foreign}`);
  await volume.stage(node);
  const after = (await node.controllers()).find(({ nqn }) => nqn === volume.nqn);
  assertNotEquals(after?.name, before?.name);
  await volume.unstage(node);
  assertEquals((await node.controllers()).map(({ nqn }) => nqn), [foreign]);
  await node.machine.guest.sh(`nvme disconnect -n ${foreign}`);
  await machines.target.routerOs('/disk/set [find where slot="in-between"] nvme-tcp-export=no');
  await volume.detach(node);
  await volume.delete();
});

scenario(
  "a simulator that is killed takes its exports up again and leaves another program's alone",
  async (machines) => {
    const { target } = machines;
    const node = theNode(machines);
    const foreign = await target.foreignExport("kept");
    const address = target.machine.address;
    // Another program's subsystem in the same kernel, over a file of its own.
    await target.machine.guest.sh(
      "truncate -s 16M /run/other.img; loop=$(losetup -f --show /run/other.img); s=/sys/kernel/config/nvmet/subsystems/other; " +
        "mkdir $s $s/namespaces/1; echo -n $loop >$s/namespaces/1/device_path; echo 1 >$s/namespaces/1/enable; ",
    );
    await node.machine.guest.sh(`nvme connect -t tcp -a ${address} -s 4420 -n ${foreign} --reconnect-delay=2 -l -1`);
    await target.restartSimulator();
    await node.untilSession(foreign, "live");
    assertEquals(await exportsOf(machines), [foreign, "other"]);
    assertEquals(
      await target.machine.guest.sh("cat /sys/kernel/config/nvmet/subsystems/other/namespaces/1/enable"),
      "1",
    );
    await node.machine.guest.sh(`nvme disconnect -n ${foreign}`);
    await target.simulator.kill("SIGTERM");
    assertEquals(await target.simulator.ended(), 0);
    assertEquals(await exportsOf(machines), ["other"]);
    await target.restartSimulator();
  },
);

scenario("an export grows for connected hosts at once, or for those that connect afterwards", async (machines) => {
  const { target } = machines;
  const node = theNode(machines);
  const connect = (nqn: string) =>
    node.machine.guest.sh(`nvme connect -t tcp -a ${target.machine.address} -s 4420 -n ${nqn}`);
  const size = async (nqn: string) => {
    const [controller] = (await node.controllers()).filter((each) => each.nqn === nqn);
    return Number(await node.machine.guest.sh(`cat /sys/class/nvme/${controller?.name}/nvme*n*/size`)) * 512;
  };
  for (const growth of ["now", "reconnect"]) {
    target.settings = { guesses: `growth=${growth}` };
    await target.restartSimulator();
    const nqn = await target.foreignExport(`grows-${growth}`, 2 ** 26);
    await connect(nqn);
    await node.untilSession(nqn, "live");
    await target.routerOs(`/disk/set [find where slot="grows-${growth}"] file-size=${2 ** 27}`);
    await node.machine.guest.sh("for c in /dev/nvme[0-9]; do nvme ns-rescan $c; done");
    assertEquals(await size(nqn), growth === "now" ? 2 ** 27 : 2 ** 26);
    await node.machine.guest.sh(`nvme disconnect -n ${nqn}`);
    await connect(nqn);
    using deadline = new Deadline(patient(120_000), "the namespace to be seen as it is now");
    await poll(async () => await size(nqn) === 2 ** 27 || undefined, { signal: deadline.signal, interval: 200 });
    await node.machine.guest.sh(`nvme disconnect -n ${nqn}`);
    await target.routerOs(`/disk/remove [find where slot="grows-${growth}"]`);
  }
  target.settings = {};
  await target.restartSimulator();
});

scenario("a node whose power goes comes back, and its agent answers", async (machines) => {
  const node = theNode(machines, 2);
  await node.killAgent();
  await node.startAgent();
  await node.machine.powerOff();
  await node.machine.powerOn();
  using client = node.client();
  assertEquals((await client.nodeGetInfo({})).nodeId, node.name);
});
