/**
 * The machines of `deno task lab`, in namespaces of their own. Arguments: their folder, how many nodes, and the file that
 * says where their agents listen.
 * @module
 */
import { print } from "../layer.ts";
import { AGENT } from "./machine.ts";
import { startMachines } from "./machines.ts";

const [folder = "", nodes = "2", note = ""] = Deno.args;

const ended = new Promise<void>((resolve) => {
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) Deno.addSignalListener(signal, () => resolve());
});

print("Starting the machines takes half a minute or so\n");
await using machines = await startMachines({ folder, nodes: Number(nodes) });
const all = [machines.target.machine, ...machines.nodes.map(({ machine }) => machine)];
await Deno.writeTextFile(note, JSON.stringify(Object.fromEntries(all.map((each) => [each.name, each.port(AGENT)]))));
const { host, port } = machines.target.ready;
print(
  [
    ...all.map(({ name, address }) => `${name.padEnd(12)} ${address.padEnd(12)} deno task lab exec ${name} dmesg`),
    `RouterOS:    ssh -i ${folder}/client_key -p ${port} admin@${host} '/disk print detail'`,
    `controller:  unix://${machines.socket}`,
    ...machines.nodes.map(({ name, socket }) => `${name}:       unix://${socket}`),
    `QEMU's monitors (QMP): ${folder}/<machine>/monitor.sock`,
    "It goes on running; Ctrl-C ends it and removes everything.",
    "",
  ].join("\n"),
);
await ended;
