import { assertEquals, assertMatch } from "@std/assert";
import type { Machines } from "../lab/machines/machines.ts";
import type { NodeMachine } from "../lab/machines/node_machine.ts";
import { crash, type Gate, type Gated, Gates, type Hold } from "./machines_gates.ts";
import {
  assertClean,
  attach,
  type Attached,
  checksum,
  deleteVolume,
  detach,
  down,
  type Kind,
  makeVolume,
  nodeOf,
  type Place,
  placeOf,
  publish,
  refusal,
  scenarios,
  stage,
  stageOnce,
  unpublish,
  unstage,
  until,
  up,
  write,
} from "./machines_steps.ts";

const scenario = scenarios();

async function given(lab: Machines, kind: Kind): Promise<Attached> {
  return await attach(lab, await makeVolume(lab, kind), nodeOf(lab));
}

/** As {@linkcode given}, with a filesystem that was made before. */
async function used(lab: Machines, kind: Kind): Promise<Attached> {
  const volume = await given(lab, kind);
  await stage(volume);
  await unstage(volume);
  return volume;
}

async function end(lab: Machines, volumes: readonly Attached[]): Promise<void> {
  await Promise.all(volumes.map(async (volume) => {
    await unstage(volume);
    await detach(lab, volume);
    await deleteVolume(lab, volume);
  }));
}

async function recordOf({ node, id }: Attached): Promise<Record<string, unknown> | undefined> {
  const path = `/var/lib/kubelet/plugins/rds.csi.srvlab.io/volumes/${id}.json`;
  const text = await node.machine.guest.quick(`cat ${path} 2>/dev/null || true`);
  return text === "" ? undefined : JSON.parse(text);
}

/** How often something is mounted at a path. */
async function mountsAt(node: NodeMachine, path: string): Promise<number> {
  return Number(await node.machine.guest.quick(`awk -v p='${path}' '$5 == p' /proc/1/mountinfo | wc -l`));
}

/** The state of the session of a volume. */
async function sessionOf({ node, nqn }: Attached): Promise<string | undefined> {
  return (await node.controllers()).find((each) => each.nqn === nqn)?.state;
}

interface Cut {
  gate: Gate;
  /** Repeats its call as the kubelet does. */
  call: () => Promise<unknown>;
}

/**
 * Begins calls whose programs are held, kills the agent with all that it has started when every one is, and has the calls
 * repeated.
 * @param options.seen is called while there is no agent
 */
async function cutOff(node: NodeMachine, cuts: readonly Cut[], seen: () => Promise<void>): Promise<void> {
  // Their patience may be at its end when the agent is there again.
  const calls = Promise.all(cuts.map(({ call }) => call().catch(call)));
  calls.catch(() => {});
  await Promise.all(cuts.map(({ gate }) => gate.reached()));
  await crash(node);
  await seen();
  await node.startAgent();
  await calls;
}

scenario(
  "the agent is killed in the middle of stage, mkfs, mount, publish, unpublish and unstage: repeated, they end clean",
  async (lab) => {
    const node = nodeOf(lab);
    const gates = await Gates.install(node);
    const held = async (program: Gated, hold: Hold, call: () => Promise<unknown>): Promise<Cut> => ({
      gate: await gates.hold(program, hold),
      call,
    });
    const block = await given(lab, "block");
    const ext4s = await Promise.all([1, 2, 3, 4].map(() => given(lab, "ext4")));
    const xfs = await given(lab, "xfs");
    const [oldXfs, oldExt4] = await Promise.all([used(lab, "xfs"), used(lab, "ext4")]);
    const fresh = [...ext4s, xfs];
    const volumes = [block, ...fresh, oldXfs, oldExt4];

    // Right after the connect; before, in and after mkfs, also when of 603,136 bytes only the first superblock is left to be
    // written; after the mount that only tries; after the mount itself.
    const [before, half, late, after] = ext4s as [Attached, Attached, Attached, Attached];
    await cutOff(node, [
      await held("nvme", { when: "after", having: `-n ${block.nqn}` }, () => stage(block)),
      await held("mkfs.ext4", { when: "before" }, () => stage(before)),
      await held("mkfs.ext4", { when: "half" }, () => stage(half)),
      await held("mkfs.ext4", { when: 602_000 }, () => stage(late)),
      await held("mkfs.ext4", { when: "after" }, () => stage(after)),
      await held("mkfs.xfs", { when: 300_000 }, () => stage(xfs)),
      await held("mount", { when: "after", having: "norecovery" }, () => stage(oldXfs)),
      await held("mount", { when: "after", having: oldExt4.stagingPath }, () => stage(oldExt4)),
    ], async () => {
      for (const volume of volumes) assertEquals(await sessionOf(volume), "live", volume.id);
      const intents = await Promise.all(fresh.map(async (volume) => (await recordOf(volume))?.mkfs));
      assertEquals(intents, ["ext4", "ext4", "ext4", "ext4", "xfs"]);
      assertEquals([await mountsAt(node, oldXfs.stagingPath), await mountsAt(node, oldExt4.stagingPath)], [1, 1]);
    });
    for (const volume of fresh) assertEquals((await recordOf(volume))?.mkfs, undefined);

    // Noted and not made; made and not answered; bound and not answered.
    const other = await given(lab, "block");
    await stage(other);
    volumes.push(other);
    const places = [placeOf(block, "pod"), placeOf(other, "pod"), placeOf(oldExt4, "pod")];
    const published = async ({ targetPath }: Place) =>
      (await node.machine.guest.run("test", ["-b", targetPath])).code === 0 || await mountsAt(node, targetPath) === 1;
    await cutOff(node, [
      await held("mknod", { when: "before", having: block.pv }, () => publish(block, "pod")),
      await held("mknod", { when: "after", having: other.pv }, () => publish(other, "pod")),
      await held("mount", { when: "after", having: "--bind" }, () => publish(oldExt4, "pod")),
    ], async () => {
      assertEquals((await recordOf(block))?.targets, [places[0]?.targetPath]);
      assertEquals(await Promise.all(places.map(published)), [false, true, true]);
    });
    places.push(...await Promise.all([...fresh, oldXfs].map((volume) => publish(volume, "pod"))));
    assertEquals(await Promise.all(places.map(published)), places.map(() => true));
    const written = await Promise.all(places.map((place) => write(place, 1)));

    // The target is unmounted and still there; before the unmount, between it and the disconnect, and after that.
    const [, , bound, ...rest] = places as [Place, Place, Place, ...Place[]];
    await Promise.all(rest.map(unpublish));
    const [unmounting, unmounted, proving, disconnecting, disconnected, plain] = rest as [
      Place,
      Place,
      Place,
      Place,
      Place,
      Place,
    ];
    await unstage(plain);
    await cutOff(node, [
      await held("umount", { when: "after", having: bound.targetPath }, () => unpublish(bound)),
      await held("umount", { when: "before", having: unmounting.stagingPath }, () => unstage(unmounting)),
      await held("umount", { when: "after", having: unmounted.stagingPath }, () => unstage(unmounted)),
      await held("mke2fs", { when: "before", having: await deviceOf(proving) }, () => unstage(proving)),
      await held(
        "nvme",
        { when: "before", having: `disconnect -n ${disconnecting.nqn}` },
        () => unstage(disconnecting),
      ),
      await held("nvme", { when: "after", having: `disconnect -n ${disconnected.nqn}` }, () => unstage(disconnected)),
    ], async () => {
      const mounts = await Promise.all(rest.map(({ stagingPath }) => mountsAt(node, stagingPath)));
      assertEquals(mounts, [1, 0, 0, 0, 0, 0]);
      const sessions = await Promise.all(rest.map(sessionOf));
      assertEquals(sessions, ["live", "live", "live", "live", undefined, undefined]);
    });
    assertEquals((await node.controllers()).length, volumes.length - rest.length);
    await node.machine.guest.quick(
      rest.map(({ stagingPath }) => `rmdir '${stagingPath}'; mkdir '${stagingPath}'`).join("; "),
    );

    const again = await Promise.all(places.map(async (each) => {
      await stage(each);
      return await publish(each, "again");
    }));
    assertEquals(await Promise.all(again.map((place) => checksum(place, 1))), written);
    await Promise.all([...places.slice(0, 2), ...again].map(unpublish));
    await end(lab, volumes);
    await assertClean(node);
  },
);

async function deviceOf({ node, nqn }: Attached): Promise<string> {
  return await node.machine.guest.sh(
    `for s in /sys/class/nvme-subsystem/*; do [ "$(cat $s/subsysnqn)" = ${nqn} ] && ls $s | grep -xE 'nvme[0-9]+n[0-9]+'; done; true`,
  );
}

scenario(
  "a mkfs that was cut off is finished by its own node alone: another refuses, and says how to go on",
  async (lab) => {
    const [own, other] = [nodeOf(lab), nodeOf(lab, 2)];
    const gates = await Gates.install(own);
    const volumes = await Promise.all([given(lab, "ext4"), given(lab, "xfs")]);
    const cuts = [
      await gates.hold("mkfs.ext4", { when: "half" }),
      await gates.hold("mkfs.xfs", { when: 300_000 }),
    ];
    const calls = volumes.map((volume) => refusal(() => stageOnce(volume)));
    await Promise.all(cuts.map((gate) => gate.reached()));
    await crash(own);
    await Promise.all(calls);
    await own.startAgent();
    await Promise.all(volumes.map(async (volume) => {
      await unstage(volume);
      await detach(lab, volume);
      const elsewhere = await attach(lab, volume, other);
      const { code, message } = await refusal(() => stageOnce(elsewhere));
      assertEquals(code, "FAILED_PRECONDITION", message);
      assertMatch(message, /another node's mkfs was cut off, start a pod there/);
      await unstage(elsewhere);
      await detach(lab, elsewhere);
      const back = await attach(lab, volume, own);
      await stage(back);
      await own.machine.guest.quick(`echo here > '${back.stagingPath}/file'`);
      await unstage(back);
      await detach(lab, back);
      // Finished, it is as any other.
      const place = await up(lab, volume, other);
      assertEquals(await other.machine.guest.quick(`cat '${place.targetPath}/file'`), "here");
      await down(lab, place);
      await deleteVolume(lab, volume);
    }));
    for (const node of [own, other]) await assertClean(node);
  },
);

scenario("a mkfs that outlives its agent is not written over: the call is refused until it has ended", async (lab) => {
  const node = nodeOf(lab);
  const gate = await (await Gates.install(node)).hold("mkfs.ext4", { when: 300_000 });
  const volume = await given(lab, "ext4");
  const lost = refusal(() => stageOnce(volume));
  await gate.reached();
  await crash(node, { orphans: true });
  await lost;
  await node.startAgent();
  const { code, message } = await refusal(() => stageOnce(volume));
  assertEquals(code, "UNAVAILABLE", message);
  assertMatch(message, /in use/);
  await gate.open();
  await until("the old mkfs to end", async () => {
    return (await node.machine.guest.run("pgrep", ["mkfs"])).code === 1 || undefined;
  });
  await stageOnce(volume);
  await unstage(volume); // Staged again it is checked before.
  await stage(volume);
  const place = await publish(volume, "pod");
  await down(lab, place);
  await deleteVolume(lab, volume);
  await assertClean(node);
});

scenario(
  "SIGTERM: the call under way finishes or ends within the grace, new ones are refused, the exit code is 0",
  async (lab) => {
    const node = nodeOf(lab);
    const gates = await Gates.install(node);
    const [ext4, xfs] = await Promise.all([given(lab, "ext4"), given(lab, "xfs")]);
    const finishing = await gates.hold("mkfs.ext4", { when: "before" });
    const finished = stageOnce(ext4);
    finished.catch(() => {});
    await finishing.reached();
    await node.agent.kill("SIGTERM");
    await until("it to end", () => Promise.resolve(node.agent.find(/ending because of SIGTERM/)));
    assertEquals((await refusal(() => stageOnce(xfs))).code, "UNAVAILABLE");
    await finishing.open();
    await finished;
    assertEquals(await node.agent.ended(), 0);
    assertEquals(await mountsAt(node, ext4.stagingPath), 1);

    await node.startAgent({ "shutdown-grace": "2s" });
    const late = await gates.hold("mkfs.xfs", { when: "before" });
    const aborted = refusal(() => stageOnce(xfs));
    await late.reached();
    await node.agent.kill("SIGTERM");
    const { code, message } = await aborted;
    assertEquals(code, "UNAVAILABLE", message);
    assertEquals(await node.agent.ended(), 0);
    assertEquals((await node.machine.guest.run("pgrep", ["mkfs"])).code, 1, "mkfs goes on");
    await node.startAgent();
    await Promise.all([ext4, xfs].map(stage));
    await end(lab, [ext4, xfs]);
    await assertClean(node);
  },
);
