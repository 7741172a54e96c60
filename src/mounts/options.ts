import { InvalidArgument } from "../runtime/errors.ts";

const elsewhere = "it makes mount(8) do something other than mounting the volume's filesystem";
const propagation = "the mount's propagation belongs to the kubelet";
const noJournal = "its journal would not be used, so that a crash would damage the filesystem";
const loss = "acknowledged writes would be lost in a crash";
const otherDevice = "the filesystem would use a device that the driver knows nothing of";

const refused: Record<string, string> = {
  bind: elsewhere,
  rbind: elsewhere,
  move: elsewhere,
  remount: elsewhere,
  loop: otherDevice,
  offset: otherDevice,
  sizelimit: otherDevice,
  logdev: otherDevice,
  rtdev: otherDevice,
  journal_dev: otherDevice,
  journal_path: otherDevice,
  helper: elsewhere,
  uhelper: elsewhere,
  nobarrier: loss,
  noload: noJournal,
  norecovery: noJournal,
  "errors=panic": "one broken volume would stop the whole node",
  "barrier=0": loss,
};
for (const name of ["hashdevice", "roothash", "hashoffset", "roothashfile"]) refused[`verity.${name}`] = otherDevice;
for (const kind of ["shared", "slave", "private", "unbindable"]) {
  refused[kind] = propagation;
  refused[`r${kind}`] = propagation;
}

function whyRefused(option: string): string | undefined {
  const name = option.replace(/=.*/s, "");
  if (/^x-/i.test(name)) return elsewhere;
  return refused[option] ?? refused[name];
}

/**
 * Mount options of a StorageClass, one an entry or several with commas. All that the filesystem knows is allowed
 * (`noatime`, `discard`, `nouuid` …) but a short list.
 * @throws {InvalidArgument} with the option and the reason
 */
export function checkedMountOptions(given: readonly string[]): string[] {
  // A comma inside of quotes (an SELinux context) does not part options.
  const options = given.flatMap((entry) => entry.match(/(?:[^,"]|"[^"]*")+/g) ?? []);
  for (const option of options) {
    // deno-lint-ignore no-control-regex -- control characters are what is looked for
    const why = /[\x00-\x20\x7f]/.test(option) ? "it holds a blank or a control character" : whyRefused(option);
    if (why) {
      throw new InvalidArgument(`mount option '${option}' is refused: ${why}. Take it out of the StorageClass or PV`);
    }
  }
  return options;
}
