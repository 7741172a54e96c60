/**
 * The `major:minor` of a device number as `stat` gives it in `rdev`, in the form that sysfs and mountinfo have it
 * (glibc's `sys/sysmacros.h`: 12 bits of the major at bit 8, the minor's low 8 bits below and its others from bit 20).
 */
export function majorMinorOf(rdev: number): string {
  const bits = BigInt(rdev);
  const major = ((bits >> 8n) & 0xfffn) | ((bits >> 32n) & ~0xfffn);
  const minor = (bits & 0xffn) | ((bits >> 12n) & 0xffffff00n);
  return `${major}:${minor}`;
}

/** The `major:minor` that a block device's node stands for; `undefined` for a file of any other kind. */
export function blockNumberOf(info: Deno.FileInfo): string | undefined {
  return info.isBlockDevice && info.rdev !== null ? majorMinorOf(info.rdev) : undefined;
}
