import { assert, assertEquals, assertMatch } from "@std/assert";
import { patient } from "../lab/machines/patience.ts";
import {
  attach,
  checksum,
  conditionOf,
  deleteVolume,
  detach,
  down,
  makeVolume,
  nodeOf,
  type Place,
  placeOf,
  publish,
  refusal,
  scenarios,
  stage,
  unpublish,
  unstage,
  until,
  up,
  write,
} from "./machines_steps.ts";

const scenario = scenarios({ nodes: 1, node: { "watch-interval": "2s" } });

/** Sessions notice soon that the server is away. */
const parameters = { keepAliveTmo: "2", reconnectDelay: "1" };

scenario(
  "a session that the kernel gave up is made again; what stood over the old device is told, and the next publish is right",
  async (lab) => {
    const node = nodeOf(lab);
    const short = { ...parameters, ctrlLossTmo: "3" };
    const place = await up(lab, await makeVolume(lab, "ext4", { parameters: short }), node);
    const block = await up(lab, await makeVolume(lab, "block", { parameters: short }), node);
    const idle = await attach(lab, await makeVolume(lab, "xfs", { parameters: short }), node);
    await stage(idle);
    const written = [await write(place), await write(block)];
    const numbers = () =>
      node.machine.guest.sh('for d in /sys/class/nvme-subsystem/*/nvme*n*/dev; do echo "$d $(cat $d)"; done; true');
    const before = await numbers();
    await node.machine.cutLink();
    for (const { nqn } of [place, block, idle]) await node.untilSession(nqn, "gone", patient(60_000));
    // Something else takes the numbers that became free.
    await node.machine.restoreLink();
    const thief = await up(lab, await makeVolume(lab, "block"), node);
    for (const { nqn } of [place, block, idle]) await node.untilSession(nqn, "live", patient(60_000));
    assert(before !== await numbers(), "nothing was numbered anew");
    const { abnormal, message } = await conditionOf(place);
    assert(abnormal);
    assertMatch(message, /stale|restart the pod/);
    // Nobody used this one: it is mounted on the device as it is now.
    const now = await until("the staging mount to be made anew", async () => {
      const { code } = await node.machine.guest.run("touch", [`${idle.stagingPath}/here`]);
      return code === 0 || undefined;
    });
    assert(now);
    // The pods are restarted, as the condition says.
    for (const each of [place, block]) await unpublish(each);
    const again = await publish(place, "pod-again");
    const blockAgain = await publish(block, "pod-again");
    assertEquals([await checksum(again), await checksum(blockAgain)], written);
    assertEquals((await conditionOf(again)).abnormal, false);
    await unstage(idle);
    await detach(lab, idle);
    await deleteVolume(lab, idle);
    for (const each of [again, blockAgain, thief]) {
      await down(lab, each);
      await deleteVolume(lab, each);
    }
  },
);

scenario("after the node's own restart devices have other names: each pod gets its own volume's data", async (lab) => {
  const node = nodeOf(lab);
  const volumes = [];
  for (const kind of ["block", "ext4", "block"] as const) volumes.push(await makeVolume(lab, kind, { parameters }));
  const places: Place[] = [];
  for (const volume of volumes) places.push(await up(lab, volume, node));
  const written = await Promise.all(places.map((place) => write(place)));
  await node.machine.reset();
  // In the other order, so that each finds another name.
  const again: Place[] = [];
  for (const place of places.toReversed()) {
    const attached = await attach(lab, place, node);
    await stage(attached);
    again.unshift(await publish(attached, "pod-new"));
  }
  assertEquals(await Promise.all(again.map((place) => checksum(place))), written);
  for (const each of again) {
    await down(lab, each);
    await deleteVolume(lab, each);
  }
});

scenario(
  "a foreign session, and one that the Go driver made, live through all of it, restarts included",
  async (lab) => {
    const node = nodeOf(lab);
    const { guest } = node.machine;
    const foreign = await lab.target.foreignExport();
    const connect = (nqn: string) =>
      guest.sh(`nvme connect -t tcp -a ${lab.parameters.nvmeAddress} -s 4420 -n ${nqn} -l -1 -c 1 -k 2 >&2`);
    await connect(foreign);
    const old = await attach(lab, await makeVolume(lab, "block"), node);
    await connect(old.nqn);
    for (const nqn of [foreign, old.nqn]) await node.untilSession(nqn, "live");
    const device = await guest.sh(
      `for s in /sys/class/nvme-subsystem/*; do [ "$(cat $s/subsysnqn)" = ${old.nqn} ] && ls $s | grep -E '^nvme[0-9]+n[0-9]+$'; done; true`,
    );
    // A machine has it open, plainly, and leaves no other trace; that is how QEMU opens disks.
    const machine = await node.machine.start("machine", "bash", [
      "-c",
      `exec 3<>/dev/${device}; echo open; while sleep 0.2; do echo beat | dd bs=512 conv=sync status=none >&3 || exit 1; done`,
    ]);
    await until("the device to be open", () => Promise.resolve(machine.find(/open/)));
    const sessions = async () =>
      (await node.controllers()).filter(({ nqn }) => nqn === foreign || nqn === old.nqn).map(({ name, nqn, state }) =>
        `${name} ${nqn} ${state}`
      );
    const before = await sessions();

    for (const signal of ["SIGKILL", "SIGTERM"] as const) {
      await node.killAgent(signal);
      await node.startAgent();
    }
    const place = await up(lab, await makeVolume(lab, "ext4", { parameters }), node);
    await node.machine.cutLink();
    await node.untilSession(place.nqn, "connecting");
    await node.machine.restoreLink();
    await down(lab, place);
    await deleteVolume(lab, place);
    await lab.target.machine.reset();
    for (const nqn of [foreign, old.nqn]) await node.untilSession(nqn, "live", patient(90_000));
    assertEquals(await sessions(), before);
    assertEquals((await machine.state()).running, true, machine.output);

    // The Go driver bind-mounted the device; the pod ends, and Kubernetes unpublishes, unstages and detaches with this driver.
    const target = placeOf(old, "old-pod").targetPath;
    await guest.sh(`mkdir -p "$(dirname '${target}')"; touch '${target}'; mount --bind /dev/${device} '${target}'`);
    await machine.kill("SIGKILL");
    await machine.ended();
    await unpublish({ ...old, targetPath: target });
    assertEquals((await guest.run("test", ["-e", target])).code, 1);
    await unstage(old);
    await detach(lab, old);
    await deleteVolume(lab, old);
    assertEquals((await node.controllers()).map(({ nqn }) => nqn), [foreign]);
    await guest.sh(`nvme disconnect -n ${foreign} >&2`);
  },
);

scenario("what uses a volume is named when it is to be unstaged, and the volume stays whole", async (lab) => {
  const node = nodeOf(lab);
  const { guest } = node.machine;
  const place = await up(lab, await makeVolume(lab, "ext4"), node);
  const block = await up(lab, await makeVolume(lab, "block"), node);
  const written = await write(place);
  await unpublish(place);
  await unpublish(block);
  using client = node.client();
  const unstaging = (each: Place) => () =>
    client.nodeUnstageVolume({ volumeId: each.id, stagingTargetPath: each.stagingPath });

  const open = await node.machine.start("open", "bash", [
    "-c",
    `exec 3>'${place.stagingPath}/open'; echo open; sleep 1000`,
  ]);
  await until("the file to be open", () => Promise.resolve(open.find(/open/)));
  const busy = await refusal(unstaging(place));
  assertEquals(busy.code, "FAILED_PRECONDITION");
  assertMatch(busy.message, /busy|open/);
  await open.kill("SIGKILL");
  await open.ended();

  await guest.sh(`mkdir -p /run/elsewhere; mount --bind '${place.stagingPath}' /run/elsewhere`);
  const elsewhere = await refusal(unstaging(place));
  assertEquals(elsewhere.code, "FAILED_PRECONDITION");
  assertMatch(elsewhere.message, /\/run\/elsewhere/);
  assertEquals(await guest.sh("sha256sum < /run/elsewhere/data | cut -c1-64"), written);
  await guest.sh("umount /run/elsewhere");

  const device = await guest.sh(
    `for s in /sys/class/nvme-subsystem/*; do [ "$(cat $s/subsysnqn)" = ${block.nqn} ] && ls $s | grep -E '^nvme[0-9]+n[0-9]+$'; done; true`,
  );
  const loop = await guest.sh(`losetup --find --show /dev/${device}`);
  const pinned = await refusal(unstaging(block));
  assertEquals(pinned.code, "FAILED_PRECONDITION");
  assertMatch(pinned.message, new RegExp(loop.replace("/dev/", "")));
  await guest.sh(`losetup --detach ${loop}`);

  for (const each of [place, block]) {
    await unstage(each);
    await detach(lab, each);
    await deleteVolume(lab, each);
  }
});
