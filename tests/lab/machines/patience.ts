/** Machines are emulated, and tests share two processors with them: `RDS_CSI_PATIENCE` multiplies what each is given. */
const factor = Number(Deno.env.get("RDS_CSI_PATIENCE")) || 2;

/** Milliseconds for something in a machine that takes so long at most on a host with two idle processors. */
export function patient(milliseconds: number): number {
  return milliseconds * factor;
}
