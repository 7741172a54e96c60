import type { SimulatorReady } from "../process.ts";
import { driverEnv, driverIn, said, type Settings } from "./driver_in_guest.ts";
import type { GuestProcess } from "./guest.ts";
import { Machine } from "./machine.ts";

const SSH = 22;
/** Where nodes reach the exports. */
export const TARGET_ADDRESS = "10.77.0.1";
/** The folder that the permission set names. */
const POOL = "/var/lib/rds-csi-simulator";
const CONTROL = `${POOL}/.control.sock`;
const DISK = 16 * 2 ** 30;

/** The storage machine: a simulated RouterOS whose exports are the kernel's, on a disk that outlives the machine. */
export class TargetMachine {
  readonly machine: Machine;
  /** What the simulator said when it was ready, with the port on the host. */
  ready!: SimulatorReady;
  simulator!: GuestProcess;
  /** For the next starts of the simulator: `guesses` for one. */
  settings: Settings;

  private constructor(machine: Machine, settings: Settings) {
    this.machine = machine;
    this.settings = settings;
  }

  static async start(folder: string, options: { network: string[]; settings: Settings }): Promise<TargetMachine> {
    let target: TargetMachine | undefined;
    const machine = await Machine.start({
      name: "target",
      folder,
      network: options.network,
      address: TARGET_ADDRESS,
      load: ["virtio_blk", "ext4", "nvmet-tcp", "loop", "crc32c-intel"],
      disk: DISK,
      ports: [SSH],
      onUp: async (machine) => {
        target ??= new TargetMachine(machine, options.settings);
        await target.#up();
      },
    });
    return target ?? new TargetMachine(machine, options.settings);
  }

  /** Runs a line of RouterOS' console. @throws with what it prints when that is a failure */
  async routerOs(line: string): Promise<string> {
    const { output } = await this.control({ op: "run", line });
    if (/^(failure|syntax error|bad |expected |no such|invalid )/m.test(String(output))) {
      throw new Error(String(output));
    }
    return String(output);
  }

  /** Asks the simulator's control socket: `{ op: "state" }`, … @throws with what it says against it */
  async control(request: Record<string, unknown>): Promise<Record<string, unknown>> {
    const connection = await Deno.connect({ transport: "unix", path: this.#control });
    try {
      await connection.write(new TextEncoder().encode(`${JSON.stringify(request)}\n`));
      let text = "";
      for await (const part of connection.readable.pipeThrough(new TextDecoderStream())) {
        text += part;
        if (text.endsWith("\n")) break;
      }
      const answer = JSON.parse(text);
      if (!answer.ok) throw new Error(`the simulator: ${answer.error}`);
      return answer;
    } finally {
      try {
        connection.close();
      } catch {
        // Reading to its end has closed it.
      }
    }
  }

  /** Exports a disk that is none of the driver's. @returns its NQN */
  async foreignExport(slot = "nixos-var", size = 64 * 2 ** 20): Promise<string> {
    const nqn = `nqn.2000-02.com.mikrotik:${slot}`;
    await this.routerOs(
      `/disk/add type=file file-path=/storage-pool/${slot}.img file-size=${size} slot=${slot} mount-filesystem=no ` +
        `nvme-tcp-export=yes nvme-tcp-server-port=4420 nvme-tcp-server-nqn=${nqn}`,
    );
    return nqn;
  }

  /** Starts the simulator anew, killed as it is; its exports go and come back. */
  async restartSimulator(): Promise<void> {
    await this.simulator.kill("SIGKILL");
    await this.simulator.ended();
    await this.#startSimulator();
  }

  async #up(): Promise<void> {
    await this.machine.guest.sh(
      `[ -n "$(blkid /dev/vda)" ] || mkfs.ext4 -q -E lazy_itable_init=1 /dev/vda; mkdir -p ${POOL}; mount /dev/vda ${POOL}`,
    );
    await this.#startSimulator();
  }

  async #startSimulator(): Promise<void> {
    const { program, args } = driverIn("simulator", {
      "listen": `0.0.0.0:${SSH}`,
      "pool": POOL,
      "pool-size": "8G",
      "exporter": "nvmet",
      "control-socket": CONTROL,
      ...this.settings,
    });
    this.simulator = await this.machine.start("simulator", program, args, { env: driverEnv });
    this.ready = JSON.parse(await said(this.simulator, /^\{"ready":true/));
    this.ready.host = "127.0.0.1";
    this.ready.port = this.machine.port(SSH);
  }

  #tunnel: string | undefined;
  get #control(): string {
    return this.#tunnel ??= this.machine.tunnel(CONTROL);
  }
}
