/** Machines are emulated: `RDS_CSI_PATIENCE` multiplies what the tests give them, for hosts that are slower than most. */
const factor = Number(Deno.env.get("RDS_CSI_PATIENCE")) || 1;

/** Milliseconds for something in a machine that takes so long at most on a host with two idle processors. */
export function patient(milliseconds: number): number {
  return milliseconds * factor;
}
