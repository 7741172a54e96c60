import { assert, assertEquals, assertMatch } from "@std/assert";
import { pause } from "../../src/runtime/deadline.ts";
import type { Machines } from "../lab/machines/machines.ts";
import type { NodeMachine } from "../lab/machines/node_machine.ts";
import { patient } from "../lab/machines/patience.ts";
import { type Gate, Gates } from "./machines_gates.ts";
import {
  assertClean,
  attach,
  checksum,
  conditionOf,
  deleteVolume,
  detach,
  down,
  makeVolume,
  nodeOf,
  publish,
  refusal,
  scenarios,
  stage,
  stageOnce,
  unpublish,
  unstage,
  unstageOnce,
  until,
  up,
  write,
} from "./machines_steps.ts";

const scenario = scenarios({ nodes: 1, node: { "watch-interval": "2s" } });

/** Lets the server take so many bytes a second for one volume: with 1 its writes hang while its session is live. 0: all. */
async function throttle(lab: Machines, { nqn }: { nqn: string }, bytes: number): Promise<void> {
  await lab.target.machine.guest.sh(
    `mkdir -p /run/blkio; mountpoint -q /run/blkio || mount -t cgroup -o blkio none /run/blkio
    disk=$(cat /sys/kernel/config/nvmet/subsystems/${nqn}/namespaces/1/device_path)
    echo "$(cat /sys/block/\${disk#/dev/}/dev) ${bytes}" > /run/blkio/blkio.throttle.write_bps_device`,
  );
}

async function stuck(node: NodeMachine): Promise<number> {
  return Number(/^rds_csi_child_processes_stuck (\d+)$/m.exec(await node.metrics())?.[1]);
}

/** What a volume of which something hangs may answer. */
const later = ["ABORTED", "UNAVAILABLE", "DEADLINE_EXCEEDED", "FAILED_PRECONDITION"];

/** It waits for the kernel for minutes, and was seen to pass too seldom yet to be part of what must. */
const soaking = Deno.env.get("RDS_CSI_SOAK") ? scenario : () => {};

soaking(
  "umount hangs in the kernel: its volume's calls are answered, others go on, over the agent's end too, until it ends",
  async (lab) => {
    const node = nodeOf(lab);
    const { guest } = node.machine;
    const settings = { "tool-deadline": "10s" };
    await node.killAgent("SIGTERM");
    await node.startAgent(settings);
    const volume = await up(lab, await makeVolume(lab, "ext4"), node);
    await guest.sh(`echo precious > '${volume.targetPath}/file'; sync -f '${volume.targetPath}/file'`);
    await unpublish(volume);
    await throttle(lab, volume, 1);
    await guest.sh(`dd if=/dev/zero of='${volume.stagingPath}/dirty' bs=64k count=8 status=none`);
    const hangs = await refusal(() => unstageOnce(volume));
    assert(later.includes(hangs.code), hangs.message);
    assertMatch(hangs.message, /hangs in the kernel/);
    assertEquals(await stuck(node), 1);
    for (const call of [unstageOnce, stageOnce]) {
      assertEquals((await refusal(() => call(volume))).code, "ABORTED", call.name);
    }
    const place = await up(lab, await makeVolume(lab, "ext4"), node);
    await write(place, 1);

    // An agent that knows of nothing does not take what is unmounted but not yet written for free.
    await node.killAgent();
    await node.startAgent(settings);
    const { code, message } = await refusal(() => unstageOnce(volume));
    assert(later.includes(code), message);
    assert((await node.controllers()).some(({ nqn }) => nqn === volume.nqn), "it was disconnected");
    assertEquals((await conditionOf(place)).abnormal, false);
    await down(lab, place);
    await deleteVolume(lab, place);
    await throttle(lab, volume, 0);
    const unstaged = () => unstageOnce(volume).then(() => true, () => undefined);
    await until("the volume to be unstaged", unstaged, patient(180_000));
    await stage(volume);
    const again = await publish(volume, "again");
    assertEquals(await guest.sh(`cat '${again.targetPath}/file'`), "precious");
    await down(lab, again);
    await deleteVolume(lab, volume);
    await assertClean(node);
  },
);

scenario(
  "the link is away while mkfs runs: it goes on, or its call ends in time and the repeated one finishes it",
  async (lab) => {
    const node = nodeOf(lab);
    const gates = await Gates.install(node);
    const parameters = { keepAliveTmo: "2", reconnectDelay: "1" };
    const away = async (gate: Gate, nqn: string) => {
      await gate.reached();
      await node.machine.cutLink();
      await gate.open();
      await node.untilSession(nqn, "connecting");
    };
    const patientOne = await attach(lab, await makeVolume(lab, "ext4", { parameters }), node);
    const half = await gates.hold("mkfs.ext4", { when: 300_000 });
    const staged = stage(patientOne);
    staged.catch(() => {});
    const tenSeconds = pause(10_000);
    await away(half, patientOne.nqn);
    await tenSeconds;
    await node.machine.restoreLink();
    await staged;

    await node.killAgent("SIGTERM");
    await node.startAgent({ "mkfs-deadline": "20s" });
    const volume = await attach(lab, await makeVolume(lab, "xfs", { parameters }), node);
    const begun = await gates.hold("mkfs.xfs", { when: "before" });
    const late = refusal(() => stageOnce(volume));
    await away(begun, volume.nqn);
    const { code, message } = await late;
    assert(later.includes(code), message);
    assertMatch(message, /mkfs\.xfs/);
    // Killed, it ends or hangs, by where it was; what it left is not taken for whole either way.
    const repeated = await refusal(() => stageOnce(volume));
    assert(later.includes(repeated.code), repeated.message);
    await node.machine.restoreLink();
    await until("nothing to hang any more", async () => await stuck(node) === 0 || undefined);
    await stage(volume);
    await unstage(volume);
    await detach(lab, volume);
    await deleteVolume(lab, volume);

    const place = await publish(patientOne, "pod");
    const written = await write(place);
    assertEquals(await checksum(place), written);
    assertEquals((await conditionOf(place)).abnormal, false);
    await down(lab, place);
    await deleteVolume(lab, place);
    await assertClean(node);
  },
);
