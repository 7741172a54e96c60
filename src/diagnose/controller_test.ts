import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { kubeOver, type Objects } from "../../tests/diagnose/healthy_node.ts";
import { prefix, type RouterOs, routerOs } from "../../tests/lab/routeros.ts";
import { Identity } from "../../proto/gen/csi_pb.ts";
import { readConfig } from "../config_read.ts";
import { identityService } from "../csi/identity.ts";
import { CsiServer } from "../csi/server.ts";
import { ControllerMetrics } from "../runtime/controller_metrics.ts";
import { serveHttp } from "../runtime/http.ts";
import type { SimulatorOptions } from "../simulator/options.ts";
import { runChecks } from "./check.ts";
import { controllerChecks } from "./controller_checks.ts";
import { controllerWorld } from "./controller_world.ts";
import { ofController } from "./meanings.ts";

const version = "1.2.3";
const GIB = 1n << 30n;
const names = ["pvc-1a000000-0000-4000-8000-000000000001", "pvc-2b000000-0000-4000-8000-000000000002"];

/** A controller with which nothing is wrong: a RouterOS over SSH, two volumes with PVs, one attached, a leader. */
class HealthyController implements AsyncDisposable {
  readonly metrics = new ControllerMetrics(version);
  readonly objects: Objects = new Map();
  readonly measured = { connected: true, watchAge: 1, fencesOwed: 0 };
  readonly ids: string[] = [];
  env: Record<string, string> = {};
  readonly #ending = new AsyncDisposableStack();
  #port = 0;

  private constructor(readonly rds: RouterOs) {}

  static async start(simulator: Partial<SimulatorOptions> = {}): Promise<HealthyController> {
    const it = new HealthyController(await routerOs({ simulator }));
    it.#ending.use(it.rds);
    if (simulator.version === undefined && simulator.policies === undefined) await it.#volumes();
    await it.#process();
    it.objects.set("/api/v1/namespaces/kube-system", { metadata: { name: "kube-system", uid: "cluster-1" } });
    it.lease("replica-1", new Date());
    return it;
  }

  /** What is wrong: check and code of every finding that is not well. */
  async wrong(): Promise<{ code: string; detail: string; remedy: string }[]> {
    const { rds } = this;
    const request = readConfig(["diagnose", "controller"], {
      CSI_MANAGED_NQN_PREFIX: prefix,
      RDS_CSI_RDS_ADDRESS: rds.simulator.host,
      RDS_CSI_RDS_PORT: String(rds.simulator.port),
      RDS_CSI_RDS_USER: "csi",
      RDS_CSI_RDS_KEY_FILE: rds.simulator.clientKeyFile ?? "",
      RDS_CSI_RDS_HOST_KEY: `${rds.folder}/host_key`,
      RDS_CSI_ENDPOINT: `unix://${rds.folder}/csi.sock`,
      RDS_CSI_METRICS_ADDRESS: `127.0.0.1:${this.#port}`,
      ...this.env,
    });
    if (request.kind !== "command") throw new Error(JSON.stringify(request));
    const { config, problems } = request;
    const world = controllerWorld(config, { problems, version, kube: kubeOver(this.objects) });
    const outcomes = await runChecks(controllerChecks(world), new AbortController().signal);
    world.close();
    assert(outcomes.every(({ findings }) => findings.length > 0));
    return outcomes.flatMap(({ name, findings }) =>
      findings.filter(({ status }) => status !== "ok")
        .map(({ code, detail, remedy = "" }) => ({ code: `${name}/${code}`, detail, remedy }))
    );
  }

  lease(holderIdentity: string, renewed: Date): void {
    const name = "rds-csi-controller";
    const spec = { holderIdentity, renewTime: renewed.toISOString() };
    const path = `/apis/coordination.k8s.io/v1/namespaces/rds-csi/leases/${name}`;
    this.objects.set(path, { metadata: { name }, spec });
  }

  attach(nqn: string): void {
    const [id = "", name = ""] = [this.ids[0], names[0]];
    this.objects.set("/apis/storage.k8s.io/v1/volumeattachments/csi-1", {
      metadata: { name: "csi-1", uid: "a-1" },
      spec: { attacher: "rds.csi.srvlab.io", nodeName: "node-1", source: { persistentVolumeName: name } },
      status: { attached: true, attachmentMetadata: { volume_id: id, nvme_nqn: nqn } },
    });
  }

  /** Runs a line on RouterOS, as an administrator does. */
  async line(text: string): Promise<void> {
    const said = await this.rds.simulator.run(text);
    if (said.trim() !== "") throw new Error(said);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#ending.disposeAsync();
  }

  async #volumes(): Promise<void> {
    for (const name of names) {
      const { volume } = await this.rds.volumes.create({ name, range: { required: GIB, limit: 0n }, parameters: {} });
      this.ids.push(volume.id);
      this.objects.set(`/api/v1/persistentvolumes/${name}`, {
        metadata: { name },
        spec: { csi: { driver: "rds.csi.srvlab.io", volumeHandle: volume.id } },
      });
      if (this.ids.length === 1) this.attach(volume.nqn);
    }
  }

  async #process(): Promise<void> {
    const { metrics, measured, rds } = this;
    const server = new CsiServer({ socket: `${rds.folder}/csi.sock`, metrics });
    server.add(
      Identity,
      identityService({ name: "rds.csi.srvlab.io", version, expansion: "online", ready: () => true }),
    );
    await server.start();
    this.#ending.defer(() => server.stop(500));
    metrics.observe({
      sshConnected: () => measured.connected,
      watchAge: () => measured.watchAge,
      fencesOwed: () => measured.fencesOwed,
    });
    const http = serveHttp({ host: "127.0.0.1", port: 0, metrics, ready: () => true });
    this.#ending.defer(() => http.close());
    this.#port = http.port;
  }
}

Deno.test("diagnose controller finds nothing where nothing is wrong, and changes nothing", async () => {
  await using it = await HealthyController.start();
  const before = it.rds.simulator.state();
  assertEquals(await it.wrong(), []);
  const { disks, files } = it.rds.simulator.state();
  assertEquals([disks, files], [before.disks, before.files]);
});

interface Fault {
  name: string;
  simulator?: Partial<SimulatorOptions>;
  plant?(it: HealthyController): Promise<unknown> | void;
  /** All that is to be found, in order. */
  codes: string[];
  /** Of the finding that has this code: what it names, and what somebody is to do. */
  names?: string[];
  remedy: string;
}

const lost = ["version", "policies", "pools", "volumes", "attachments", "orphans"].map((name) => `${name}/not-known`);

const faults: Fault[] = [
  {
    name: "a RouterOS that is away",
    plant: (it) => it.rds.simulator.close(),
    codes: ["routeros/routeros-silent", ...lost],
    remedy: "--rds-address",
  },
  {
    name: "another host key than the pinned one",
    plant: async (it) => {
      const other = it.rds.simulator.hostKey.replace(/.{8}$/, "AAAAAAAA");
      await Deno.writeTextFile(`${it.rds.folder}/host_key`, `${other}\n`);
    },
    codes: ["routeros/host-key-refused", ...lost],
    names: ["SHA256:"],
    remedy: "compare the fingerprint",
  },
  {
    name: "a host key that nobody checks",
    plant: (it) => void (it.env.RDS_CSI_RDS_INSECURE_SKIP_VERIFY = "true"),
    codes: ["routeros/host-key-unchecked"],
    remedy: "pin the host key",
  },
  {
    name: "a private key that cannot be used",
    plant: (it) => void (it.env.RDS_CSI_RDS_KEY_FILE = `${it.rds.folder}/host_key`),
    codes: ["routeros/login-unusable", ...lost],
    names: ["public key"],
    remedy: "rds-private-key",
  },
  {
    name: "a RouterOS that is too old",
    simulator: { version: "7.20.1 (stable)" },
    codes: ["version/routeros-old"],
    names: ["7.20.1"],
    remedy: "upgrade",
  },
  {
    name: "a RouterOS with known holes and without the package",
    simulator: { version: "7.24.1 (stable)", packages: ["routeros"] },
    codes: ["version/routeros-warning", "version/routeros-warning"],
    names: ["7.24.1"],
    remedy: "upgrade RouterOS",
  },
  {
    name: "a user who may not write",
    simulator: { policies: ["ssh", "read"] },
    codes: ["policies/policy-missing"],
    names: ["'write'"],
    remedy: "policies ssh, read and write",
  },
  {
    name: "a pool that is not there",
    plant: (it) => void (it.env.RDS_CSI_RDS_ALLOWED_BASE_PATHS = "/other-pool/x"),
    codes: ["pools/pool-missing"],
    names: ["other-pool"],
    remedy: "mount point",
  },
  {
    name: "a pool that is nearly full",
    simulator: { poolSize: Number(2n * GIB + GIB / 16n), guesses: { preallocated: true } },
    codes: ["pools/pool-full"],
    names: ["storage-pool"],
    remedy: "free space",
  },
  {
    name: "a pool that is promised whole",
    simulator: { poolSize: Number(2n * GIB + GIB / 2n) },
    codes: ["pools/pool-promised"],
    names: ["2.0 promised"],
    remedy: "--capacity-ratio",
  },
  {
    name: "a PV without a volume",
    plant: async (it) => {
      const [, id] = it.ids;
      await it.line(`/disk/remove [find where slot="${id}"]; /file/remove [find where name~"${id}"]`);
    },
    codes: ["volumes/volume-missing"],
    names: [names[1] ?? ""],
    remedy: "removed by hand",
  },
  {
    name: "a volume that is not exported",
    plant: (it) => it.line(`/disk/set [find where slot="${it.ids[1]}"] nvme-tcp-export=no`),
    codes: ["volumes/volume-not-exported"],
    names: [names[1] ?? ""],
    remedy: "nvme-tcp-export=yes",
  },
  {
    name: "a volume whose file system RouterOS mounts",
    plant: (it) => it.line(`/disk/set [find where slot="${it.ids[1]}"] mount-filesystem=yes`),
    codes: ["volumes/mounted-by-routeros"],
    remedy: "end its pods once",
  },
  {
    name: "an attachment with an NQN of an earlier generation",
    plant: (it) => it.rds.volumes.fence(it.ids[0] ?? ""),
    codes: ["attachments/nqn-differs"],
    names: ["node-1", ".g1"],
    remedy: "attached anew",
  },
  {
    name: "a volume that no PV names",
    plant: (it) => void it.objects.delete(`/api/v1/persistentvolumes/${names[1]}`),
    codes: ["orphans/volume-orphaned"],
    names: ["metal-csi/pvc-"],
    remedy: "/file/remove",
  },
  {
    name: "volumes without any PV, which proves nothing",
    plant: (it) => {
      for (const path of [...it.objects.keys()]) {
        if (/persistentvolumes|volumeattach/.test(path)) it.objects.delete(path);
      }
    },
    codes: ["orphans/not-known"],
    names: ["no proof"],
    remedy: "",
  },
  {
    name: "a leader that is gone",
    plant: (it) => it.lease("replica-1", new Date(Date.now() - 600_000)),
    codes: ["leader/no-leader"],
    names: ["replica-1"],
    remedy: "controller's pods",
  },
  {
    name: "a controller that lost RouterOS and Kubernetes",
    plant: (it) => void Object.assign(it.measured, { connected: false, watchAge: 100 }),
    codes: ["controller/controller-lost", "controller/controller-lost"],
    remedy: "log",
  },
  {
    name: "a fence that is owed",
    plant: (it) => void (it.measured.fencesOwed = 1),
    codes: ["controller/fence-owed"],
    remedy: "is off",
  },
];

for (const { name, simulator, plant, codes, names = [], remedy } of faults) {
  Deno.test(`diagnose controller finds and names ${name}, with what to do about it, and nothing else`, async () => {
    await using it = await HealthyController.start(simulator);
    await plant?.(it);
    const found = await it.wrong();
    assertEquals(found.map(({ code }) => code), codes, JSON.stringify(found, undefined, 1));
    for (const part of names) assertStringIncludes(found[0]?.detail ?? "", part);
    assertStringIncludes(found[0]?.remedy ?? "", remedy);
  });
}

Deno.test("diagnose controller: every kind of finding is planted here", () => {
  const planted = new Set(faults.flatMap(({ codes }) => codes.map((code) => code.replace(/^.*\//, ""))));
  assertEquals(Object.keys(ofController).filter((code) => !planted.has(code)), []);
});
