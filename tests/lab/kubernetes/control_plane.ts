import { Deadline, poll } from "../../../src/runtime/deadline.ts";
import { ApiProxy } from "./api_proxy.ts";
import { KubeClient } from "./client.ts";
import { admin, controllerManager, type User, writeKeys, writeKubeconfig, writeTokens } from "./credentials.ts";
import { Program } from "./program.ts";
import { kubernetesTool } from "./tools.ts";

/** What can be set. */
export interface ControlPlaneOptions {
  /** Where data, keys and certificates go. */
  folder: string;
  /** Who may log in besides {@linkcode admin}; what they may do is RBAC's. */
  users: readonly User[];
  /** Controllers of the controller-manager: by default those for volumes, without the one that attaches and detaches for pods. */
  controllers?: readonly string[];
  /** Whether every request is written down: {@linkcode ControlPlane.auditLog}. */
  audited?: boolean;
  /** More arguments of the API server, and of the controller-manager. */
  apiServerArgs?: readonly string[];
  managerArgs?: readonly string[];
  /** With a scheduler, for pods. */
  scheduler?: boolean;
}

const VOLUME_CONTROLLERS = [
  "garbage-collector-controller",
  "namespace-controller",
  "persistentvolume-binder-controller",
  "persistentvolume-expander-controller",
  "persistentvolume-protection-controller",
  "persistentvolumeclaim-protection-controller",
];

const AUDIT_LOG = "audit.log";

/** Milliseconds that each program has until it is ready. */
const READY = 60_000;

/** A real etcd, kube-apiserver and kube-controller-manager. Letting it go ends them. */
export class ControlPlane implements AsyncDisposable {
  readonly url: string;
  /** Certificates that clients trust, PEM. */
  readonly ca: string;
  /** For whoever may do everything. */
  readonly admin: KubeClient;
  readonly programs: readonly Program[];
  /** Path of the audit log, a line of JSON an event (audit.k8s.io/v1 Event), where there is one. */
  readonly auditLog: string;
  readonly #folder: string;
  readonly #tokens: ReadonlyMap<string, string>;
  readonly #stack: AsyncDisposableStack;

  /** Made by {@linkcode startControlPlane}. */
  constructor(made: {
    url: string;
    ca: string;
    folder: string;
    tokens: ReadonlyMap<string, string>;
    programs: readonly Program[];
    stack: AsyncDisposableStack;
  }) {
    this.url = made.url;
    this.ca = made.ca;
    this.programs = made.programs;
    this.auditLog = `${made.folder}/${AUDIT_LOG}`;
    this.#folder = made.folder;
    this.#tokens = made.tokens;
    this.#stack = made.stack;
    this.admin = this.#stack.use(this.client(admin));
  }

  /** A client for one of the users, to the API server or to a proxy before it. The caller lets it go. */
  client(user: User, url = this.url): KubeClient {
    return new KubeClient({ url, ca: this.ca }, this.#token(user));
  }

  /**
   * Writes a kubeconfig for one of the users.
   * @param to.path what is written; by default a file in the control plane's folder
   * @param to.url by default that of the API server
   * @returns its path
   */
  kubeconfig(user: User, to: { path?: string; url?: string } = {}): Promise<string> {
    const server = { url: to.url ?? this.url, ca: this.ca, token: this.#token(user) };
    return writeKubeconfig(to.path ?? this.#folder, user, server);
  }

  /** The files of a service account's pod, by name, as the kubelet lays them down. */
  account(user: User, namespace: string): Record<string, string> {
    return { "token": this.#token(user), "ca.crt": this.ca, namespace };
  }

  /** A proxy before the API server, which shows the API server's own certificate. The caller lets it go. */
  async proxy(): Promise<ApiProxy> {
    const certificates = `${this.#folder}/certificates/apiserver`;
    const [cert, key] = await Promise.all(["crt", "key"].map((kind) => Deno.readTextFile(`${certificates}.${kind}`)));
    return new ApiProxy({ target: this.url, ca: this.ca, tls: { cert: cert ?? "", key: key ?? "" } });
  }

  #token(user: User): string {
    const token = this.#tokens.get(user.name);
    if (!token) throw new Error(`there is no token for ${user.name}: name it among the users`);
    return token;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#stack.disposeAsync();
  }
}

/** Starts a control plane on free ports of the loopback interface, with RBAC. */
export async function startControlPlane(options: ControlPlaneOptions): Promise<ControlPlane> {
  await using stack = new AsyncDisposableStack();
  const { folder } = options;
  await Deno.mkdir(folder, { recursive: true, mode: 0o700 });
  const tokens = new Map([admin, controllerManager, ...options.users].map(({ name }) => [name, crypto.randomUUID()]));
  const programs: Program[] = [];
  const start = async (name: Parameters<typeof kubernetesTool>[0], args: readonly string[]) => {
    const program = stack.use(new Program({ name, path: await kubernetesTool(name), args, folder }));
    programs.push(program);
    return program;
  };

  const [etcdPort, apiPort] = freePorts(2);
  const etcdUrl = `http://127.0.0.1:${etcdPort}`;
  const etcd = await start("etcd", etcdArgs(etcdUrl));
  await ready(etcd, () => isOk(`${etcdUrl}/health`));

  await writeKeys(folder);
  await writeTokens(folder, [admin, controllerManager, ...options.users], tokens);
  const url = `https://127.0.0.1:${apiPort}`;
  const more = [...options.apiServerArgs ?? [], ...options.audited ? await auditArgs(folder) : []];
  const api = await start("kube-apiserver", [...apiArgs(etcdUrl, Number(apiPort)), ...more]);
  const ca = await ready(api, () => certificates(`${folder}/certificates/apiserver.crt`));
  {
    using client = new KubeClient({ url, ca }, tokens.get(admin.name) ?? "");
    await ready(api, () => client.isOk("/readyz").catch(() => false));
  }

  const token = tokens.get(controllerManager.name) ?? "";
  const kubeconfig = await writeKubeconfig(folder, controllerManager, { url, ca, token });
  const managing = managerArgs(kubeconfig, options.controllers ?? VOLUME_CONTROLLERS);
  await start("kube-controller-manager", [...managing, ...options.managerArgs ?? []]);
  if (options.scheduler) {
    await start("kube-scheduler", [`--kubeconfig=${kubeconfig}`, "--leader-elect=false", "--secure-port=0"]);
  }
  return new ControlPlane({ url, ca, folder, tokens, programs, stack: stack.move() });
}

function etcdArgs(url: string): string[] {
  return [
    "--data-dir=etcd",
    `--listen-client-urls=${url}`,
    `--advertise-client-urls=${url}`,
    "--listen-peer-urls=http://127.0.0.1:0",
    "--unsafe-no-fsync",
    "--log-level=warn",
  ];
}

function apiArgs(etcd: string, port: number): string[] {
  return [
    `--etcd-servers=${etcd}`,
    `--secure-port=${port}`,
    "--bind-address=127.0.0.1",
    "--advertise-address=127.0.0.1",
    // The address of the loopback interface is refused as an endpoint.
    "--endpoint-reconciler-type=none",
    "--cert-dir=certificates",
    "--service-cluster-ip-range=10.96.0.0/16",
    "--service-account-issuer=https://kubernetes.default.svc",
    "--service-account-key-file=service-accounts.pub",
    "--service-account-signing-key-file=service-accounts.key",
    "--token-auth-file=tokens.csv",
    "--authorization-mode=Node,RBAC",
    "--allow-privileged=true",
  ];
}

/** Writes down who asked for what and how it ended, and nothing of what was said. */
async function auditArgs(folder: string): Promise<string[]> {
  const policy = {
    apiVersion: "audit.k8s.io/v1",
    kind: "Policy",
    omitStages: ["RequestReceived"],
    rules: [{ level: "Metadata" }],
  };
  await Deno.writeTextFile(`${folder}/audit-policy.json`, JSON.stringify(policy));
  return ["--audit-policy-file=audit-policy.json", `--audit-log-path=${AUDIT_LOG}`, "--audit-log-mode=blocking"];
}

function managerArgs(kubeconfig: string, controllers: readonly string[]): string[] {
  return [
    `--kubeconfig=${kubeconfig}`,
    `--controllers=${controllers.join(",")}`,
    "--leader-elect=false",
    "--secure-port=0",
    "--service-account-private-key-file=service-accounts.key",
    // Pods trust the API server by it.
    "--root-ca-file=certificates/apiserver.crt",
    "--pvclaimbinder-sync-period=2s",
  ];
}

async function ready<T>(program: Program, look: () => Promise<T | false | undefined>): Promise<T> {
  using deadline = new Deadline(READY, `${program.name} to be ready`);
  try {
    return await poll(async () => {
      program.assertRunning();
      return await look() || undefined;
    }, { signal: deadline.signal, interval: 50 });
  } catch (error) {
    const tail = program.output.split("\n").slice(-20).join("\n");
    throw new Error(`${error instanceof Error ? error.message : error}; it wrote:\n${tail}`, { cause: error });
  }
}

async function isOk(url: string): Promise<boolean> {
  try {
    const answer = await fetch(url, { signal: AbortSignal.timeout(5000) });
    await answer.body?.cancel();
    return answer.ok;
  } catch {
    return false;
  }
}

/** The API server's own certificate and that of whoever signed it, once both are there. */
async function certificates(path: string): Promise<string | undefined> {
  const text = await Deno.readTextFile(path).catch(() => "");
  return text.split("-----END CERTIFICATE-----").length > 2 ? text : undefined;
}

/** Ports that nobody has now. Somebody may take them before they are used, which ends the start with an error. */
function freePorts(count: number): number[] {
  const listeners = Array.from({ length: count }, () => Deno.listen({ hostname: "127.0.0.1", port: 0 }));
  const ports = listeners.map((listener) => listener.addr.port);
  for (const listener of listeners) listener.close();
  return ports;
}
