import { assert, assertEquals, assertExists } from "@std/assert";
import { startSimulator } from "../../src/simulator/simulator.ts";
import { PREFIX } from "../lab/driver.ts";
import { labFolder } from "../lab/folder.ts";
import { buildah, image } from "../lab/image.ts";
import { controllerUser, DRIVER, HOME, WORK } from "../lab/kubernetes/cluster.ts";
import type { KubeClient } from "../lab/kubernetes/client.ts";
import { type ControlPlane, startControlPlane } from "../lab/kubernetes/control_plane.ts";
import { admin } from "../lab/kubernetes/credentials.ts";
import { KeptProgram } from "../lab/kubernetes/kept_program.ts";
import { makeNode } from "../lab/kubernetes/nodes.ts";
import * as objects from "../lab/kubernetes/objects.ts";
import { kubernetesTool } from "../lab/kubernetes/tools.ts";
import { fromFileUrl, project } from "../lab/project.ts";
import { attach, attached, bound, detach, makeClaim, removeClaim } from "../kubernetes/steps.ts";
import { type Container, environment, objectsOf, type PodSpec, render, type Rendered } from "./chart.ts";
import { said } from "./tools.ts";

/** The user that the chart gives the pod. */
const USER = 65532;

/** What stands in for a kubelet. */
interface Pod {
  spec: PodSpec;
  objects: readonly Rendered[];
  /** The image's tree. */
  image: string;
  folder: string;
  controlPlane: ControlPlane;
}

/** Lays the pod's volumes down as the kubelet does for `fsGroup`. @returns where each is */
async function volumes(
  { spec, folder, controlPlane }: Pod,
  login: Record<string, string>,
): Promise<Map<string, string>> {
  const made = new Map<string, string>();
  const lay = async (name: string, files: Record<string, string>, mode: number) => {
    const path = `${folder}/${name}`;
    await Deno.mkdir(path);
    await Deno.chown(path, 0, USER);
    await Deno.chmod(path, mode);
    for (const [file, text] of Object.entries(files)) {
      await Deno.writeTextFile(`${path}/${file}`, text);
      await Deno.chown(`${path}/${file}`, 0, USER);
      await Deno.chmod(`${path}/${file}`, 0o440);
    }
    made.set(name, path);
  };
  for (const volume of spec.volumes ?? []) {
    const isSecret = "secret" in volume;
    await lay(String(volume["name"]), isSecret ? login : {}, isSecret ? 0o750 : 0o2777);
  }
  await lay("account", controlPlane.account(controllerUser, HOME), 0o755);
  return made;
}

/** Starts a container of the pod as the chart has it. */
async function start(pod: Pod, container: Container, at: ReadonlyMap<string, string>): Promise<KeptProgram> {
  const { hostname, port } = new URL(pod.controlPlane.url);
  const env = {
    PATH: "/usr/local/lib/rds-csi:/usr/local/bin:/usr/sbin:/usr/bin",
    KUBERNETES_SERVICE_HOST: hostname,
    KUBERNETES_SERVICE_PORT: port,
    ...environment(container, pod.objects),
  };
  const mounts = (container.volumeMounts ?? []).map(({ name, mountPath, readOnly }) =>
    `${at.get(name)}:${mountPath}:${readOnly ? "ro" : "rw"}`
  );
  mounts.push(`${at.get("account")}:/var/run/secrets/kubernetes.io/serviceaccount:ro`);
  const isDriver = container.name === "rds-csi";
  const name = container.name as "csi-provisioner" | "csi-attacher" | "csi-resizer";
  if (!isDriver) mounts.push(`${await kubernetesTool(name)}:/${name}:ro`);
  const scratch = `${pod.folder}/root-of-${container.name}`;
  await Deno.mkdir(scratch);
  const variables = Object.entries(env).map(([name, value]) => `${name}=${value}`);
  const script = fromFileUrl(new URL("tests/chart/container.sh", project));
  const inside = ["env", "-i", ...variables, isDriver ? "rds-csi" : `/${name}`, ...container.args ?? []];
  const args = ["--mount", "sh", script, pod.image, scratch, String(USER), ...mounts, "--", ...inside];
  return new KeptProgram({ name: container.name, path: "unshare", args, folder: pod.folder });
}

function freePort(): number {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  return listener.addr.port;
}

/** A control plane with what the chart makes, a simulator, and the controller's pod at work on both. */
interface Started {
  kube: KubeClient;
  spec: PodSpec;
  containers: readonly KeptProgram[];
  /** Path of the CSI socket. */
  socket: string;
  /** Where `/readyz` is. */
  ready: string;
}

async function startPod(stack: AsyncDisposableStack): Promise<Started> {
  const { path: folder } = stack.use(await labFolder("chart"));
  await Deno.chmod(folder, 0o755);
  await image();
  const container = (await buildah(["from", "--pull-never", "localhost/rds-csi:bundled"])).text.trim();
  stack.defer(async () => void await buildah(["rm", container]));
  const tree = (await buildah(["mount", container])).text.trim();
  const controlPlane = stack.use(await startControlPlane({ folder: `${folder}/kube`, users: [controllerUser] }));
  const simulator = await startSimulator({ poolFolder: `${folder}/pool` });
  stack.defer(() => simulator.close());

  const port = freePort();
  const rds = { managementIP: simulator.host, sshPort: simulator.port, nqnPrefix: PREFIX };
  const text = await render({ rds, monitoring: { port } });
  await install(text, { folder, controlPlane });
  const rendered = objectsOf(text);
  const spec = rendered.find(({ kind }) => kind === "Deployment")?.spec?.template?.spec;
  assertExists(spec);
  const pod: Pod = { spec, objects: rendered, image: tree, folder, controlPlane };
  const key = await Deno.readTextFile(simulator.clientKeyFile ?? "");
  const at = await volumes(pod, { "rds-private-key": key, "rds-host-key": `${simulator.hostKey}\n` });
  const containers: KeptProgram[] = [];
  for (const each of spec.containers) containers.push(stack.use(await start(pod, each, at)));
  const ready = `http://127.0.0.1:${port}/readyz`;
  return { kube: controlPlane.admin, spec, containers, socket: `${at.get("socket")}/csi.sock`, ready };
}

async function install(text: string, { folder, controlPlane }: Pick<Pod, "folder" | "controlPlane">): Promise<void> {
  for (const name of [WORK, HOME]) await controlPlane.admin.create(objects.namespaces, { metadata: { name } });
  await makeNode(controlPlane.admin, { name: "node-a", driver: DRIVER });
  await Deno.writeTextFile(`${folder}/manifests.yaml`, text);
  const kubeconfig = await controlPlane.kubeconfig(admin);
  await said(await kubernetesTool("kubectl"), `--kubeconfig=${kubeconfig}`, "apply", "-f", `${folder}/manifests.yaml`);
}

/** A volume's life as far as the controller has a part in it, of a class of the chart's. */
async function life(kube: KubeClient): Promise<void> {
  const resources = (storage: string) => ({ resources: { requests: { storage } } });
  const spec = { accessModes: ["ReadWriteOnce"], storageClassName: "rds-nvme", ...resources("1Gi") };
  await makeClaim({ kube }, "first", spec);
  const { name } = await bound({ kube }, "first");
  await attach({ kube }, "first", { node: "node-a", volume: name });
  await attached({ kube }, "first");
  await kube.patch(objects.claims, { name: "first", namespace: WORK }, { spec: resources("2Gi") });
  await kube.until(objects.persistentVolumes, { name }, ({ spec }) => spec.capacity.storage === "2Gi");
  await detach({ kube }, "first");
  await removeClaim({ kube }, "first");
}

Deno.test("the controller's pod as the chart has it, without root and with nothing to write to but its volumes: the image and the real sidecars serve a claim's whole life", async () => {
  await using stack = new AsyncDisposableStack();
  const { kube, spec, containers, socket, ready } = await startPod(stack);
  assertEquals(spec.securityContext, {
    ...{ runAsNonRoot: true, runAsUser: USER, runAsGroup: USER, fsGroup: USER },
    seccompProfile: { type: "RuntimeDefault" },
  });
  const outputs = () => containers.map(({ name, output }) => `--- ${name}\n${output}`).join("\n");
  try {
    await kube.wait("the controller to be ready", async () => {
      const answer = await fetch(ready).catch(() => undefined);
      await answer?.body?.cancel();
      return answer?.ok || undefined;
    });
    const { uid, mode } = await Deno.stat(socket);
    assertEquals([uid, (mode ?? 0) & 0o777], [USER, 0o600]);
    await life(kube);
  } catch (error) {
    throw new Error(`${error instanceof Error ? error.message : error}\n${outputs()}`, { cause: error });
  }
  assert(!/forbidden|permission denied|read-only file system/i.test(outputs()), outputs());
  assertEquals(outputs().match(/successfully acquired lease/gi)?.length, 3, outputs());
});
