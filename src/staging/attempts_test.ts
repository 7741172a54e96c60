import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { prefix, type TestNode } from "../../tests/nvme/node.ts";
import { onNode } from "../../tests/nvme/on_node.ts";
import { FailedPrecondition, InvalidArgument, Unreachable } from "../runtime/errors.ts";
import { attemptPublish, attemptStage, attemptUnpublish, attemptUnstage } from "./attempts.ts";
import type { Cluster } from "./cluster.ts";
import { type StagingParts, stagingParts } from "./parts.ts";
import type { VolumeInput } from "./volume.ts";

const call = { signal: new AbortController().signal };

/** A node that tells Kubernetes, and what it told. */
function telling(node: TestNode): { parts: StagingParts; told: string[] } {
  const { commands, standIn: { roots, folder } } = node;
  const told: string[] = [];
  const cluster: Cluster = {
    podsHere: () => Promise.resolve(new Set<string>()),
    attachmentsHere: () => Promise.resolve([]),
    annotation: () => Promise.resolve(undefined),
    nodeUid: () => Promise.resolve("aaaaaaaa-0000-4000-8000-aaaaaaaaaaaa"),
    tell: (_volume, reason, message) => told.push(`${reason}: ${message}`),
  };
  const common = { commands, roots, prefix, cluster, nodeId: "node-1", recordsFolder: `${folder}/records` };
  return { parts: stagingParts(common), told };
}

/** Puts something on the volume's disk that nobody knows. */
async function spoil(node: TestNode, volume: VolumeInput): Promise<void> {
  using file = await Deno.open(node.server.file(node.nqn(volume)), { write: true });
  await file.write(new TextEncoder().encode("what somebody left here"));
}

async function metricsOf(parts: StagingParts, name: string): Promise<string[]> {
  const lines = (await parts.metrics.text()).split("\n");
  return lines.filter((line) => line.startsWith(`rds_csi_${name}`)).map((line) => line.replace(/^rds_csi_/, ""));
}

onNode(
  "attemptStage() tries a device with something else on it three times, then no more; block volumes are tried on",
  async (node) => {
    const { parts, told } = telling(node);
    const volume = await node.volume("ext4");
    await spoil(node, volume);
    for (let time = 0; time < 3; time++) {
      await assertRejects(() => attemptStage(parts, volume, call), FailedPrecondition, "not formatted");
    }
    const started = node.commands.started.length;
    await assertRejects(() => attemptStage(parts, volume, call), Unreachable, "failed 3 times in a row");
    assertEquals(node.commands.started.length, started);
    assertEquals(
      told.map((each) => each.replace(/:.*/, "")),
      [
        "MountFailure",
        "MountFailure",
        "MountFailure",
        "CircuitBreakerOpened",
      ].sort((a, b) => b.localeCompare(a)),
    );
    assertMatch(
      told.find((each) => each.startsWith("Mount")) ?? "",
      /node node-1 cannot stage the volume: .*not formatted/,
    );
    assertEquals(await metricsOf(parts, "circuit_breaker"), [
      "circuit_breaker_opened_total 1",
      "circuit_breakers_open 1",
    ]);
    assertEquals(await metricsOf(parts, "mount_operations_total"), [
      'mount_operations_total{operation="stage",status="failure"} 4',
    ]);
    const block: VolumeInput = { ...volume, capability: { kind: "block" } };
    await attemptStage(parts, block, call);
    await attemptUnstage(parts, block, call);
    assertEquals(parts.breakers.open, 0);
    await assertRejects(() => attemptStage(parts, volume, call), FailedPrecondition, "not formatted");
  },
);

onNode(
  "attemptStage() of a server that refuses to be connected opens no breaker, and says what is wrong",
  async (node) => {
    const { parts, told } = telling(node);
    const volume = await node.volume("xfs");
    const size = Number(volume.publishContext.size_bytes);
    await node.server.withdraw(node.nqn(volume));
    for (let time = 0; time < 5; time++) {
      await assertRejects(() => attemptStage(parts, volume, call), Unreachable, "Input/output error");
    }
    assertEquals(told.length, 5);
    assertMatch(told[0] ?? "", /^ConnectionFailure: node node-1 cannot connect: .*Input\/output error/);
    await node.server.offer(node.nqn(volume), size);
    await attemptStage(parts, volume, call);
    await attemptStage(parts, volume, call);
    assertEquals(told.length, 5);
    assertEquals(await metricsOf(parts, "nvme_connects_total"), [
      'nvme_connects_total{status="failure"} 5',
      'nvme_connects_total{status="success"} 1',
    ]);
    assertEquals(await metricsOf(parts, "nvme_connect_duration_seconds_count"), [
      "nvme_connect_duration_seconds_count 1",
    ]);
  },
);

for (const end of ["reconnects", "is given up"]) {
  onNode(
    `attemptStage() whose server goes away in the middle of it opens no breaker when the session ${end}`,
    async (node) => {
      const { parts, told } = telling(node);
      const volume = await node.volume("ext4");
      const goesAway = async () => {
        if (end === "reconnects") await node.setState(volume, "connecting");
        else await node.nvme("disconnect", "-n", node.nqn(volume));
        return { code: 4, stdout: "", stderr: "I/O error" };
      };
      node.commands.instead = (program) => program === "blkid" ? goesAway() : undefined;
      for (let time = 0; time < 4; time++) {
        await assertRejects(() => attemptStage(parts, volume, call), Error, "blkid");
        await node.setState(volume, "live");
      }
      assertEquals(told.map((each) => each.replace(/:.*/, "")), Array(4).fill("ConnectionFailure"));
      node.commands.instead = () => undefined;
      await attemptStage(parts, volume, call);
    },
  );
}

onNode(
  "attemptPublish() tells of a failure of the mount, not of a wrong request, and all four are counted",
  async (node) => {
    const { parts, told } = telling(node);
    const volume = await node.volume("ext4");
    await attemptStage(parts, volume, call);
    const input = node.at(volume, "target");
    const asBlock = { ...input, readOnly: true, capability: { kind: "block" as const } };
    await assertRejects(() => attemptPublish(parts, asBlock, call), InvalidArgument);
    assertEquals(told, []);
    node.commands.instead = (program) =>
      program === "mount" ? { code: 32, stdout: "", stderr: "mount: no room" } : undefined;
    await assertRejects(() => attemptPublish(parts, input, call));
    node.commands.instead = () => undefined;
    assert(told.length === 1 && told[0]?.startsWith("MountFailure: node node-1 cannot publish the volume: "), told[0]);
    await attemptPublish(parts, input, call);
    await attemptUnpublish(parts, { volumeId: volume.volumeId, targetPath: input.targetPath }, call);
    await attemptUnstage(parts, volume, call);
    assertEquals(await metricsOf(parts, "mount_operations_total"), [
      'mount_operations_total{operation="stage",status="success"} 1',
      'mount_operations_total{operation="publish",status="failure"} 2',
      'mount_operations_total{operation="publish",status="success"} 1',
      'mount_operations_total{operation="unpublish",status="success"} 1',
      'mount_operations_total{operation="unstage",status="success"} 1',
    ]);
  },
);
