/** Somebody who may log in with a token. */
export interface User {
  name: string;
  groups: readonly string[];
}

/** The user that the API server takes a service account's token for. */
export function serviceAccount(namespace: string, name: string): User {
  const groups = ["system:serviceaccounts", `system:serviceaccounts:${namespace}`];
  return { name: `system:serviceaccount:${namespace}:${name}`, groups };
}

/** Who may do everything. */
export const admin: User = { name: "admin", groups: ["system:masters"] };
/** Kubernetes' own controllers, which may do everything too. */
export const controllerManager: User = { name: "controller-manager", groups: ["system:masters"] };

/** The keys that tokens of service accounts are signed with. */
export async function writeKeys(folder: string): Promise<void> {
  const curve = { name: "ECDSA", namedCurve: "P-256" };
  const { privateKey, publicKey } = await crypto.subtle.generateKey(curve, true, ["sign", "verify"]);
  const write = async (file: string, label: string, bytes: ArrayBuffer) =>
    await Deno.writeTextFile(`${folder}/${file}`, pem(label, new Uint8Array(bytes)), { mode: 0o600 });
  await write("service-accounts.key", "PRIVATE KEY", await crypto.subtle.exportKey("pkcs8", privateKey));
  await write("service-accounts.pub", "PUBLIC KEY", await crypto.subtle.exportKey("spki", publicKey));
}

function pem(label: string, bytes: Uint8Array): string {
  const lines = bytes.toBase64().match(/.{1,64}/g) ?? [];
  return `-----BEGIN ${label}-----\n${lines.join("\n")}\n-----END ${label}-----\n`;
}

/** The file that the API server knows tokens from. */
export async function writeTokens(
  folder: string,
  users: readonly User[],
  tokens: ReadonlyMap<string, string>,
): Promise<void> {
  const lines = users.map(({ name, groups }) => `${tokens.get(name)},${name},${name},"${groups.join(",")}"\n`);
  await Deno.writeTextFile(`${folder}/tokens.csv`, lines.join(""), { mode: 0o600 });
}

/** What a user's programs find the API server by, in a folder or a file that ends in `.kubeconfig`. @returns its path */
export async function writeKubeconfig(
  place: string,
  user: User,
  server: { url: string; ca: string; token: string },
): Promise<string> {
  const path = place.endsWith(".kubeconfig") ? place : `${place}/${user.name.replaceAll(":", "-")}.kubeconfig`;
  const cluster = { server: server.url, "certificate-authority-data": btoa(server.ca) };
  const config = {
    apiVersion: "v1",
    kind: "Config",
    clusters: [{ name: "lab", cluster }],
    users: [{ name: user.name, user: { token: server.token } }],
    contexts: [{ name: "lab", context: { cluster: "lab", user: user.name } }],
    "current-context": "lab",
  };
  await Deno.writeTextFile(path, JSON.stringify(config), { mode: 0o600 });
  return path;
}
