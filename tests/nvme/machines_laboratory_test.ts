import { assert, assertEquals, assertNotEquals } from "@std/assert";
import type { Machines } from "../lab/machines/machines.ts";
import { patient } from "../lab/machines/patience.ts";
import {
  attach,
  deleteVolume,
  detach,
  down,
  GiB,
  makeVolume,
  nodeOf,
  publish,
  scenarios,
  stage,
  unstage,
  until,
  up,
} from "./machines_steps.ts";

const scenario = scenarios();

async function exportsOf(machines: Machines): Promise<string[]> {
  const text = await machines.target.machine.guest.sh("ls /sys/kernel/config/nvmet/subsystems");
  return text.split("\n").filter(Boolean);
}

scenario(
  "an export that is off cuts its session; under another NQN it is another's, under the old one it is back",
  async (machines) => {
    const { target } = machines;
    const node = nodeOf(machines);
    const volume = await up(
      machines,
      await makeVolume(machines, "ext4", { parameters: { reconnectDelay: "2" } }),
      node,
    );
    const set = (more: string) => target.routerOs(`/disk/set [find where slot="${volume.id}"] ${more}`);
    const other = `${volume.nqn}.other`;
    await set("nvme-tcp-export=no");
    await node.untilSession(volume.nqn, "connecting");
    await set(`nvme-tcp-export=yes nvme-tcp-server-nqn=${other}`);
    const second = nodeOf(machines, 2);
    await second.machine.guest.sh(`nvme connect -t tcp -a ${target.machine.address} -s 4420 -n ${other}`);
    await second.untilSession(other, "live");
    assertEquals((await node.controllers()).map(({ state }) => state), ["connecting"]);
    await second.machine.guest.sh(`nvme disconnect -n ${other}`);
    await set("nvme-tcp-export=no");
    await set(`nvme-tcp-export=yes nvme-tcp-server-nqn=${volume.nqn}`);
    await node.untilSession(volume.nqn, "live");
    await down(machines, volume);
    await deleteVolume(machines, volume);
  },
);

scenario("a session can come back under another number", async (machines) => {
  const node = nodeOf(machines);
  const volume = await attach(machines, await makeVolume(machines, "ext4"), node);
  await stage(volume);
  const [before] = await node.controllers();
  await unstage(volume);
  const foreign = await machines.target.foreignExport("in-between");
  const address = machines.target.machine.address;
  await node.machine.guest.sh(`nvme connect -t tcp -a ${address} -s 4420 -n ${foreign}`);
  await stage(volume);
  const after = (await node.controllers()).find(({ nqn }) => nqn === volume.nqn);
  assertNotEquals(after?.name, before?.name);
  await unstage(volume);
  assertEquals((await node.controllers()).map(({ nqn }) => nqn), [foreign]);
  await node.machine.guest.sh(`nvme disconnect -n ${foreign}`);
  await machines.target.routerOs('/disk/set [find where slot="in-between"] nvme-tcp-export=no');
  await detach(machines, volume);
  await deleteVolume(machines, volume);
});

scenario(
  "a simulator that is killed takes its exports up again and leaves another program's alone",
  async (machines) => {
    const { target } = machines;
    const node = nodeOf(machines);
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

/** Exports a disk, lets it grow while a node has it, and gives what the node sees of it then, and after it connected anew. */
async function grown(machines: Machines, slot: string): Promise<{ connected: number; anew: number }> {
  const { target } = machines;
  const node = nodeOf(machines);
  const nqn = await target.foreignExport(slot, 2 ** 26);
  const connect = () => node.machine.guest.sh(`nvme connect -t tcp -a ${target.machine.address} -s 4420 -n ${nqn}`);
  const size = async () => {
    const [controller] = (await node.controllers()).filter((each) => each.nqn === nqn);
    return Number(await node.machine.guest.quick(`cat /sys/class/nvme/${controller?.name}/nvme*n*/size`)) * 512;
  };
  await connect();
  await node.untilSession(nqn, "live");
  await target.routerOs(`/disk/set [find where slot="${slot}"] file-size=${2 ** 27}`);
  await node.machine.guest.sh("for c in /dev/nvme[0-9]; do nvme ns-rescan $c; done");
  const connected = await size();
  await node.machine.guest.sh(`nvme disconnect -n ${nqn}`);
  await connect();
  const anew = await until("the namespace to be seen as it is now", async () => {
    const now = await size();
    return now === 2 ** 27 ? now : undefined;
  }, patient(120_000));
  await node.machine.guest.sh(`nvme disconnect -n ${nqn}`);
  await target.routerOs(`/disk/remove [find where slot="${slot}"]`);
  return { connected, anew };
}

scenario("an export grows for connected hosts at once", async (machines) => {
  assertEquals(await grown(machines, "grows-now"), { connected: 2 ** 27, anew: 2 ** 27 });
});

scenario(
  "a volume grows on a server that shows it to new connections only: connected anew it has its size",
  async (machines) => {
    const { target } = machines;
    const node = nodeOf(machines, 2);
    const settings = target.settings;
    target.settings = { ...settings, guesses: "growth=reconnect" };
    await node.killAgent();
    await Promise.all([target.restartSimulator(), node.startAgent({ "tool-deadline": "15s" })]);
    assertEquals(await grown(machines, "grows-later"), { connected: 2 ** 26, anew: 2 ** 27 });
    await Promise.all((["ext4", "block"] as const).map(async (kind) => {
      const volume = await attach(machines, await makeVolume(machines, kind), node);
      await stage(volume);
      using controller = machines.client();
      await controller.controllerExpandVolume({
        volumeId: volume.id,
        capacityRange: { requiredBytes: BigInt(2 * GiB) },
      });
      const again = await attach(machines, volume, node);
      assertEquals(again.publishContext.size_bytes, String(2 * GiB));
      // What is mounted stays as it is; what nobody uses the driver connects anew by itself.
      if (kind === "ext4") await unstage(volume);
      await stage(again);
      const place = await publish(again, "pod");
      const size = kind === "block" ? "blockdev --getsize64" : "df --output=size -B1";
      assert(Number((await node.machine.guest.sh(`${size} '${place.targetPath}' | tail -n 1`)).trim()) > 1.8 * GiB);
      await down(machines, place);
      await deleteVolume(machines, place);
    }));
    target.settings = settings;
    await target.restartSimulator();
  },
);

scenario("a node whose power goes comes back, and its agent answers", async (machines) => {
  const node = nodeOf(machines, 2);
  await node.killAgent();
  await node.startAgent();
  await node.machine.powerOff();
  await node.machine.powerOn();
  using client = node.client();
  assertEquals((await client.nodeGetInfo({})).nodeId, node.name);
});
