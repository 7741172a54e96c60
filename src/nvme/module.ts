import type { Commands } from "../runtime/command.ts";
import { FailedPrecondition, messageOf } from "../runtime/errors.ts";
import { log } from "../runtime/log.ts";
import type { Sysfs } from "./sysfs.ts";

/** The kernel's module for NVMe/TCP, as sysfs calls it. */
export const tcpModule = "nvme_tcp";

const remedy =
  "load it on the host ('modprobe nvme-tcp', for every start: 'echo nvme-tcp > /etc/modules-load.d/nvme-tcp.conf'), " +
  "or let the driver do it with --load-modules";

/** Connecting failed, and this is why. */
export function noModule(): FailedPrecondition {
  return new FailedPrecondition(`this node's kernel has no NVMe/TCP (module nvme-tcp): ${remedy}`);
}

/**
 * Looks whether the kernel can connect, and loads its module if that is wanted. A node that cannot connect serves all the
 * same: whatever is wrong is logged, and each connect says it again.
 */
export async function prepareModule(
  options: { commands: Commands; sysfs: Sysfs; load: boolean; deadline: number },
): Promise<void> {
  const { commands, sysfs, load, deadline } = options;
  try {
    if (await sysfs.hasModule(tcpModule)) return;
    if (!load) return log.warn(`the kernel's module nvme-tcp is not loaded: ${remedy}`);
    const { code, stderr } = await commands.run("modprobe", ["nvme-tcp"], { deadline });
    if (code !== 0) throw new Error(`'modprobe nvme-tcp' ended with ${code}: ${stderr.trim()}`);
    log.info("the kernel's module nvme-tcp was loaded");
  } catch (error) {
    log.error(`whether the kernel can connect is not known: ${messageOf(error)}. If it cannot, ${remedy}`);
  }
}
