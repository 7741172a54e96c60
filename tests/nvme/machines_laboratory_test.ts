import { assert, assertEquals, assertNotEquals } from "@std/assert";
import { Deadline, poll } from "../../src/runtime/deadline.ts";
import type { Machines, NodeMachine } from "../lab/machines/machines.ts";
import { patient } from "../lab/machines/patience.ts";
import {
  attach,
  deleteVolume,
  detach,
  down,
  GiB,
  makeVolume,
  publish,
  scenarios,
  stage,
  unstage,
  up,
} from "./machines_steps.ts";

const scenario = scenarios();

function theNode(machines: Machines, number = 1): NodeMachine {
  const node = machines.nodes[number - 1];
  assert(node);
  return node;
}

async function exportsOf(machines: Machines): Promise<string[]> {
  const text = await machines.target.machine.guest.sh("ls /sys/kernel/config/nvmet/subsystems");
  return text.split("\n").filter(Boolean);
}

scenario(
  "an export that is off cuts its session; under another NQN it is another's, under the old one it is back",
  async (machines) => {
    const { target } = machines;
    const node = theNode(machines);
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
    const second = theNode(machines, 2);
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
  const node = theNode(machines);
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
  const settings = target.settings;
  for (const growth of ["now", "reconnect"]) {
    target.settings = { ...settings, guesses: `growth=${growth}` };
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
  target.settings = settings;
  await target.restartSimulator();
});

/** Not yet seen to pass: the exporter grows a device only after it has seen a connect, and one look of the driver may be too early. */
const soaking = Deno.env.get("RDS_CSI_SOAK") ? scenario : () => {};

soaking(
  "a volume grows while staged, on a server that shows it to new connections only: staged again it has its size",
  async (machines) => {
    const { target } = machines;
    const node = theNode(machines);
    const settings = target.settings;
    target.settings = { ...settings, guesses: "growth=reconnect" };
    await target.restartSimulator();
    for (const kind of ["ext4", "block"] as const) {
      const volume = await attach(machines, await makeVolume(machines, kind), node);
      await stage(volume);
      using controller = machines.client();
      await controller.controllerExpandVolume({
        volumeId: volume.id,
        capacityRange: { requiredBytes: BigInt(2 * GiB) },
      });
      const again = await attach(machines, volume, node);
      assertEquals(again.publishContext.size_bytes, String(2 * GiB));
      await stage(again);
      const place = await publish(again, "pod");
      const size = kind === "block" ? "blockdev --getsize64" : "df --output=size -B1";
      assert(Number((await node.machine.guest.sh(`${size} '${place.targetPath}' | tail -n 1`)).trim()) > 1.8 * GiB);
      await down(machines, place);
      await deleteVolume(machines, place);
    }
    target.settings = settings;
    await target.restartSimulator();
  },
);

scenario("a node whose power goes comes back, and its agent answers", async (machines) => {
  const node = theNode(machines, 2);
  await node.killAgent();
  await node.startAgent();
  await node.machine.powerOff();
  await node.machine.powerOn();
  using client = node.client();
  assertEquals((await client.nodeGetInfo({})).nodeId, node.name);
});
