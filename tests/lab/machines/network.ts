/**
 * The storage network as QEMU's arguments: a hub in the target's QEMU and a leg to each node, unix datagrams between them.
 * No port of the host is taken, and any machine may end and come back.
 */
export class Network {
  readonly #folder: string;

  /** @param folder where the sockets lie */
  constructor(folder: string) {
    this.#folder = folder;
  }

  /** For the machine that the others meet in. */
  hub(nodes: readonly string[]): string[] {
    const legs = nodes.flatMap((node) => [
      ...["-netdev", this.#datagrams(`leg-${node}`, `hub-${node}`, node)],
      ...["-netdev", `hubport,id=port-${node},hubid=0,netdev=leg-${node}`],
    ]);
    return [...legs, "-netdev", "hubport,id=storage,hubid=0", ...card("52:54:00:77:00:01")];
  }

  /** For the node with this number (from 1 on) and name. */
  node(number: number, name: string): string[] {
    const mac = `52:54:00:77:01:${number.toString(16).padStart(2, "0")}`;
    return ["-netdev", this.#datagrams("storage", name, `hub-${name}`), ...card(mac)];
  }

  #datagrams(id: string, local: string, remote: string): string {
    const path = (name: string) => `${this.#folder}/net-${name}.sock`;
    return `dgram,id=${id},local.type=unix,local.path=${path(local)},remote.type=unix,remote.path=${path(remote)}`;
  }
}

function card(mac: string): string[] {
  return ["-device", `virtio-net-pci,id=eth1,netdev=storage,mac=${mac},romfile=`];
}
